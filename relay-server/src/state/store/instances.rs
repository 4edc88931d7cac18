//! What operators have said about instances, in the state file.

use std::collections::BTreeMap;

use adit_control::{
    desired::{Desired, Maintenance, Standing},
    model::InstanceState,
};
use rusqlite::{Row, Transaction, params};
use serde::{Deserialize, Serialize};
use tunnel_core::{
    instance::{InstanceId, PortRange, Protocol, ServiceName},
    relay::{Reservation, ReservedService},
};

use super::{super::time::UnixTime, Store, StoreError, sql::text};

impl Store {
    /// Everything that operators have said about instances.
    pub(crate) fn desired(&self) -> Result<Desired, StoreError> {
        let reservations = self.rows(
            "SELECT id, client, services FROM instances ORDER BY id",
            read_reservation,
        )?;
        let states = self.rows(
            "SELECT id, state, text FROM instance_states ORDER BY id",
            read_standing,
        )?;
        let maintenance = self.rows("SELECT text FROM maintenance", |row| {
            Ok(Maintenance { text: row.get(0)? })
        })?;
        let reservations = reservations.into_iter();
        Ok(Desired {
            reservations: reservations.map(|it| (it.instance.clone(), it)).collect(),
            states: BTreeMap::from_iter(states),
            maintenance: maintenance.into_iter().next(),
        })
    }

    /// Writes an instance down, in the place of what was there.
    pub(crate) fn write_instance(
        &mut self,
        reservation: &Reservation,
        standing: &Standing,
        now: UnixTime,
    ) -> Result<(), StoreError> {
        let services = reservation.services.iter().map(StoredService::from);
        // Strings alone: they always become JSON.
        let services = serde_json::to_string(&services.collect::<Vec<_>>()).unwrap_or_default();
        self.transaction(|tx| {
            tx.execute(
                "INSERT INTO instances (id, client, services, created, changed) VALUES (?1, ?2, ?3, ?4, ?4)
                 ON CONFLICT (id) DO UPDATE SET client = ?2, services = ?3, changed = ?4",
                params![
                    reservation.instance.as_str(),
                    reservation.client,
                    services,
                    now.0
                ],
            )?;
            write_standing(tx, &reservation.instance, standing)
        })
    }

    /// Forgets an instance.
    pub(crate) fn remove_instance(&mut self, id: &InstanceId) -> Result<(), StoreError> {
        self.transaction(|tx| {
            tx.execute("DELETE FROM instances WHERE id = ?1", [id.as_str()])?;
            write_standing(tx, id, &Standing::default())
        })
    }

    /// Writes down how an instance stands.
    pub(crate) fn write_standing(
        &mut self,
        id: &InstanceId,
        standing: &Standing,
    ) -> Result<(), StoreError> {
        self.transaction(|tx| write_standing(tx, id, standing))
    }

    /// Writes down whether all instances are in maintenance.
    pub(crate) fn write_maintenance(
        &mut self,
        maintenance: Option<&Maintenance>,
    ) -> Result<(), StoreError> {
        self.transaction(|tx| {
            tx.execute("DELETE FROM maintenance", [])?;
            if let Some(maintenance) = maintenance {
                let insert = "INSERT INTO maintenance (id, text) VALUES (1, ?1)";
                tx.execute(insert, [&maintenance.text])?;
            }
            Ok(())
        })
    }
}

fn write_standing(
    tx: &Transaction<'_>,
    id: &InstanceId,
    standing: &Standing,
) -> rusqlite::Result<()> {
    if *standing == Standing::default() {
        let delete = "DELETE FROM instance_states WHERE id = ?1";
        return tx.execute(delete, [id.as_str()]).map(drop);
    }
    tx.execute(
        "INSERT OR REPLACE INTO instance_states (id, state, text) VALUES (?1, ?2, ?3)",
        params![id.as_str(), standing.state.as_str(), standing.text],
    )
    .map(drop)
}

/// A service as it is written down.
#[derive(Serialize, Deserialize)]
struct StoredService {
    name: String,
    protocol: String,
    public: String,
}

impl From<&ReservedService> for StoredService {
    fn from(service: &ReservedService) -> Self {
        Self {
            name: service.name.to_string(),
            protocol: service.protocol.to_string(),
            public: service.public.to_string(),
        }
    }
}

impl StoredService {
    fn read(&self) -> Option<ReservedService> {
        let name: ServiceName = self.name.parse().ok()?;
        let protocol: Protocol = self.protocol.parse().ok()?;
        let public: PortRange = self.public.parse().ok()?;
        Some(ReservedService::new(name, protocol, public))
    }
}

fn read_reservation(row: &Row<'_>) -> rusqlite::Result<Reservation> {
    let services: String = row.get(2)?;
    let damaged = || {
        let text = "the services of an instance are damaged";
        rusqlite::Error::FromSqlConversionFailure(2, rusqlite::types::Type::Text, text.into())
    };
    let stored: Vec<StoredService> = serde_json::from_str(&services).map_err(|_| damaged())?;
    let services = stored.iter().map(StoredService::read);
    let services = services.collect::<Option<Vec<_>>>().ok_or_else(damaged)?;
    Ok(Reservation::new(
        text::<InstanceId>(row, 0)?,
        row.get::<_, String>(1)?,
        services,
    ))
}

fn read_standing(row: &Row<'_>) -> rusqlite::Result<(InstanceId, Standing)> {
    let state: String = row.get(1)?;
    let states = [
        InstanceState::Active,
        InstanceState::Draining,
        InstanceState::Maintenance,
        InstanceState::Suspended,
    ];
    let state = states.into_iter().find(|it| it.as_str() == state);
    let state = state.ok_or_else(|| {
        let text = "the state of an instance is damaged";
        rusqlite::Error::FromSqlConversionFailure(1, rusqlite::types::Type::Text, text.into())
    })?;
    let text_of = row.get(2)?;
    Ok((
        text(row, 0)?,
        Standing {
            state,
            text: text_of,
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reservation(id: &str, ports: &str) -> Reservation {
        let service = ReservedService::new(
            "game".parse().unwrap(),
            Protocol::Both,
            ports.parse().unwrap(),
        );
        Reservation::new(id.parse().unwrap(), "node-1", vec![service])
    }

    #[test]
    fn what_was_said_is_there_again_after_a_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        let now = UnixTime(1_800_000_000);
        let drains = Standing {
            state: InstanceState::Draining,
            text: None,
        };
        let maintained = Standing {
            state: InstanceState::Maintenance,
            text: Some("back at noon".into()),
        };
        let (a, b) = (reservation("a", "7"), reservation("b", "8-9"));
        let mut store = Store::open(&path).unwrap();
        let plain = Standing::default();
        store.write_instance(&a, &drains, now).unwrap();
        store.write_instance(&b, &plain, now).unwrap();
        let moved = reservation("b", "10-11");
        store.write_instance(&moved, &plain, now).unwrap();
        // One that nothing is reserved for.
        let c: InstanceId = "c".parse().unwrap();
        store.write_standing(&c, &maintained).unwrap();
        let all = Maintenance {
            text: Some("moving".into()),
        };
        store.write_maintenance(Some(&all)).unwrap();
        let mut expected = Desired::default();
        for it in [a.clone(), moved.clone()] {
            expected.reservations.insert(it.instance.clone(), it);
        }
        expected.set_standing(&a.instance, drains);
        expected.set_standing(&c, maintained);
        expected.maintenance = Some(all);
        assert_eq!(Store::open(&path).unwrap().desired().unwrap(), expected);
        store.remove_instance(&a.instance).unwrap();
        store.write_standing(&c, &plain).unwrap();
        store.write_maintenance(None).unwrap();
        let (left, _) = Desired::merge([[moved]]);
        assert_eq!(store.desired().unwrap(), left);
    }

    #[test]
    fn a_damaged_instance_is_an_error_that_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        let mut store = Store::open(&path).unwrap();
        let now = UnixTime(0);
        let plain = Standing::default();
        store
            .write_instance(&reservation("a", "7"), &plain, now)
            .unwrap();
        for services in ["", "{}", r#"[{"name":"A","protocol":"tcp","public":"7"}]"#] {
            let damage = "UPDATE instances SET services = ?1";
            store.connection.execute(damage, [services]).unwrap();
            let error = store.desired().unwrap_err().to_string();
            assert!(error.contains("state.db"), "{error}");
        }
    }
}
