//! What operators say about instances and players: one change after the other, in the relay first, then in the state file. What
//! cannot be written down is taken back.
//!
//! A request to the API runs to its end, whether who has asked waits or not.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use adit_control::{
    desired::{Desired, Maintenance, Standing},
    events::Ring,
    extract::{IfMatch, Version},
    model::{DryRun, InstanceState, InstanceView, Wanted},
    problem::Problem,
};
use arc_swap::ArcSwap;
use serde_json::json;
use tokio::{
    sync::{Mutex, MutexGuard, Notify},
    task::spawn_blocking,
    time,
};
use tunnel_core::{
    instance::InstanceId,
    relay::{
        OperateError, OperatorState, PlayerId, Relay, RelayStatus, Reservation, ReservationRequest,
        WantedPorts, WantedService,
    },
};

use super::view;
use crate::{
    config::Config,
    operate::clients::{self, State},
    state::{BanRow, Store, StoreError, time::UnixTime},
};

/// What operators have said.
#[derive(Debug, Default)]
pub(crate) struct Said {
    pub(super) desired: Desired,
    pub(super) bans: BTreeMap<i64, BanRow>,
}

/// Where operators' changes are made.
pub(crate) struct Desk {
    relay: Arc<Relay>,
    config: Arc<ArcSwap<Config>>,
    events: Ring,
    said: Mutex<Said>,
    /// A ban was made that may be the next to end.
    banned: Notify,
}

/// What a change of an instance came to.
#[derive(Debug)]
pub(crate) enum Changed {
    /// It was made, or replaced.
    Done {
        view: InstanceView,
        version: Version,
        is_new: bool,
    },
    /// Nothing was done: this is what would be.
    Planned(DryRun),
}

/// On what a change of an instance depends.
#[derive(Debug, Default)]
pub(crate) struct Condition {
    /// The version that is there.
    pub(crate) if_match: Option<IfMatch>,
    /// There is none yet.
    pub(crate) is_new: bool,
    /// Only to be planned.
    pub(crate) dry_run: bool,
}

impl Said {
    /// What the state file has. May block.
    pub(crate) fn load(config: &Config) -> Result<Self, StoreError> {
        let mut store = Store::open(&config.state_file)?;
        if let Err(error) = store.purge_bans(UnixTime::now()) {
            tracing::warn!(%error, "bans that have ended are kept");
        }
        Ok(Self {
            desired: store.desired()?,
            bans: store.bans()?.into_iter().collect(),
        })
    }

    /// The same for a relay that starts.
    pub(crate) fn for_start(&self) -> OperatorState {
        let now = UnixTime::now();
        let bans = self.bans.values().filter(|ban| !ban.is_over(now));
        OperatorState {
            reservations: self.desired.reservations.values().cloned().collect(),
            gates: self.desired.gates().collect(),
            gate_of_all: self.desired.gate_of_all(),
            bans: bans.map(BanRow::ban).collect(),
        }
    }
}

impl Desk {
    pub(crate) fn new(
        relay: Arc<Relay>,
        config: Arc<ArcSwap<Config>>,
        events: Ring,
        said: Said,
    ) -> Arc<Self> {
        Arc::new(Self {
            relay,
            config,
            events,
            said: Mutex::new(said),
            banned: Notify::new(),
        })
    }

    /// What was said, as long as nobody changes it.
    pub(super) async fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().await
    }

    /// Makes or replaces an instance.
    pub(crate) async fn put(
        &self,
        wanted: Wanted,
        condition: Condition,
    ) -> Result<Changed, Problem> {
        self.know_client(&wanted.client).await?;
        let mut said = self.said.lock().await;
        let before = said.desired.reservations.get(&wanted.id).cloned();
        let shown = before.as_ref().map(|_| {
            let standing = said.desired.standing(&wanted.id);
            version(&said.desired, &wanted.id, &standing)
        });
        if condition.is_new && before.is_some() {
            return Err(Problem::conflict(format!(
                "An instance {0} is there already: change it with PUT /api/instances/{0}.",
                wanted.id
            )));
        }
        match (&condition.if_match, &before) {
            (Some(if_match), _) => if_match.check(shown.as_ref())?,
            (None, Some(_)) => return Err(view::precondition_wanted()),
            (None, None) => {}
        }
        let pool = self.config.load().pool.clone();
        let request = ReservationRequest::new(
            wanted.id.clone(),
            wanted.client.clone(),
            wanted.services.clone(),
            pool,
        );
        let standing = Standing {
            state: wanted.state,
            text: wanted.text.clone(),
        };
        let refused = |error| view::refusal(error, &wanted.services);
        if condition.dry_run {
            let planned = self.relay.plan(request).await.map_err(refused)?;
            let mut next = said.desired.clone();
            next.reservations.insert(wanted.id.clone(), planned);
            next.set_standing(&wanted.id, standing);
            let status = self.status().await?;
            let before = view::instance(&said.desired, &status, &wanted.id);
            let after = view::instance(&next, &status, &wanted.id).ok_or_else(Problem::internal)?;
            return Ok(Changed::Planned(view::difference(before, after)));
        }
        let reserved = self.relay.reserve(request).await.map_err(refused)?;
        let written = {
            let (reserved, standing) = (reserved.clone(), standing.clone());
            self.write(move |store| store.write_instance(&reserved, &standing, UnixTime::now()))
        };
        if let Err(problem) = written.await {
            self.take_back(&wanted.id, before).await;
            return Err(problem);
        }
        said.desired
            .reservations
            .insert(wanted.id.clone(), reserved);
        self.stand(&mut said.desired, &wanted.id, standing).await?;
        let is_new = before.is_none();
        let kind = if is_new {
            "instance_added"
        } else {
            "instance_changed"
        };
        self.tell(kind, &wanted.id);
        self.done(&said.desired, &wanted.id, is_new).await
    }

    /// Changes which players an instance takes; also one that its client has made.
    pub(crate) async fn set_standing(
        &self,
        id: InstanceId,
        standing: Standing,
        if_match: Option<IfMatch>,
    ) -> Result<Changed, Problem> {
        let mut said = self.said.lock().await;
        let status = self.status().await?;
        if view::instance(&said.desired, &status, &id).is_none() {
            return Err(view::unknown(&id));
        }
        if let Some(if_match) = if_match {
            let before = said.desired.standing(&id);
            if_match.check(Some(&version(&said.desired, &id, &before)))?;
        }
        let written = {
            let (id, standing) = (id.clone(), standing.clone());
            self.write(move |store| store.write_standing(&id, &standing))
        };
        written.await?;
        self.stand(&mut said.desired, &id, standing).await?;
        self.tell("instance_changed", &id);
        self.done(&said.desired, &id, false).await
    }

    /// Takes an instance away.
    pub(crate) async fn remove(&self, id: InstanceId, if_match: IfMatch) -> Result<(), Problem> {
        let mut said = self.said.lock().await;
        if !said.desired.reservations.contains_key(&id) {
            let status = self.status().await?;
            return Err(match view::instance(&said.desired, &status, &id) {
                Some(view) => Problem::conflict(format!(
                    "{id} was made by its client {}: remove it there, or suspend it here.",
                    view.client
                )),
                None => view::unknown(&id),
            });
        }
        let standing = said.desired.standing(&id);
        if_match.check(Some(&version(&said.desired, &id, &standing)))?;
        let removed = id.clone();
        self.write(move |store| store.remove_instance(&removed))
            .await?;
        said.desired.reservations.remove(&id);
        let released = self.relay.release(id.clone()).await;
        released.map_err(|_| view::ended())?;
        self.stand(&mut said.desired, &id, Standing::default())
            .await?;
        self.tell("instance_removed", &id);
        Ok(())
    }

    /// Puts all instances into maintenance, or takes them out of it.
    pub(crate) async fn maintain(&self, maintenance: Option<Maintenance>) -> Result<(), Problem> {
        let mut said = self.said.lock().await;
        let written = maintenance.clone();
        self.write(move |store| store.write_maintenance(written.as_ref()))
            .await?;
        let was = std::mem::replace(&mut said.desired.maintenance, maintenance).is_some();
        let gate = said.desired.gate_of_all();
        let set = self.relay.set_gate(None, gate).await;
        set.map_err(|_| view::ended())?;
        let is = said.desired.maintenance.is_some();
        if was != is {
            let kind = if is {
                "maintenance_entered"
            } else {
                "maintenance_left"
            };
            self.events.publish(kind, &json!({"which": "ALL"}));
        }
        Ok(())
    }

    /// Bans somebody. Returns the ban's number.
    pub(crate) async fn ban(&self, ban: BanRow) -> Result<i64, Problem> {
        let mut said = self.said.lock().await;
        if said.bans.len() >= BANS {
            return Err(Problem::conflict(format!(
                "There are {BANS} bans already: name networks, or end some of them."
            )));
        }
        let written = ban.clone();
        let id = self.write(move |store| store.add_ban(&written)).await?;
        tracing::info!(
            "banned address={} instance={} service={} reason={:?}",
            ban.addresses,
            ban.instance.as_ref().map_or("*", InstanceId::as_str),
            ban.service.as_ref().map_or("*", |it| it.as_str()),
            ban.reason.as_deref().unwrap_or_default(),
        );
        self.events.publish("ban_added", &view::ban(id, &ban));
        said.bans.insert(id, ban);
        self.enforce(&said).await.map(|()| id)
    }

    /// Ends a ban.
    pub(crate) async fn unban(&self, id: i64) -> Result<(), Problem> {
        let mut said = self.said.lock().await;
        if !said.bans.contains_key(&id) {
            return Err(Problem::not_found(format!(
                "There is no ban {id}: GET /api/bans lists all."
            )));
        }
        self.write(move |store| store.remove_ban(id)).await?;
        if let Some(ban) = said.bans.remove(&id) {
            self.events.publish("ban_removed", &view::ban(id, &ban));
        }
        self.enforce(&said).await
    }

    /// Ends a stream or a flow. Whether there was one.
    pub(crate) async fn end_player(&self, player: PlayerId) -> Result<bool, Problem> {
        let ended = self.relay.end_player(player).await;
        ended.map_err(|_| view::ended())
    }

    /// Ends bans whose time is over, for as long as the relay runs.
    pub(crate) async fn expire(&self) -> std::convert::Infallible {
        loop {
            let mut said = self.said.lock().await;
            let now = UnixTime::now();
            let over = |ban: &BanRow| ban.is_over(now);
            if said.bans.values().any(over) {
                said.bans.retain(|_, ban| !over(ban));
                // A file that cannot be written keeps them: they are over all the same.
                drop(self.write(move |store| store.purge_bans(now)).await);
                drop(self.enforce(&said).await);
            }
            let is_due = said.bans.values().any(|ban| ban.until.is_some());
            drop(said);
            tokio::select! {
                // The clock may jump: it is looked at again and again.
                () = time::sleep(EXPIRY), if is_due => {}
                () = self.banned.notified() => {}
            }
        }
    }

    async fn enforce(&self, said: &Said) -> Result<(), Problem> {
        self.banned.notify_one();
        let bans = said.bans.values().map(BanRow::ban).collect();
        let set = self.relay.set_bans(bans).await;
        set.map_err(|_| view::ended())
    }

    /// Moves the gate of an instance with its state.
    async fn stand(
        &self,
        desired: &mut Desired,
        id: &InstanceId,
        standing: Standing,
    ) -> Result<(), Problem> {
        let (before, now) = (desired.standing(id).state, standing.state);
        desired.set_standing(id, standing);
        if before.gate() != now.gate() {
            let set = self.relay.set_gate(Some(id.clone()), now.gate()).await;
            set.map_err(|_| view::ended())?;
        }
        let is_in = |state| state == InstanceState::Maintenance;
        if is_in(before) != is_in(now) {
            let kind = if is_in(now) {
                "maintenance_entered"
            } else {
                "maintenance_left"
            };
            self.events.publish(kind, &json!({"which": id.as_str()}));
        }
        Ok(())
    }

    /// Makes of the relay what it was before a change that could not be written down.
    async fn take_back(&self, id: &InstanceId, before: Option<Reservation>) {
        let undone = match before {
            None => self
                .relay
                .release(id.clone())
                .await
                .map(drop)
                .map_err(OperateError::from),
            Some(before) => {
                let services = before.services.into_iter().map(|it| {
                    WantedService::new(it.name, it.protocol, WantedPorts::These(it.public))
                });
                let request = ReservationRequest::new(
                    before.instance,
                    before.client,
                    services.collect(),
                    self.config.load().pool.clone(),
                );
                self.relay.reserve(request).await.map(drop)
            }
        };
        if let Err(error) = undone {
            tracing::error!(%error, instance = %id, "a change that was not written down cannot be taken back: it ends with the relay");
        }
    }

    async fn done(
        &self,
        desired: &Desired,
        id: &InstanceId,
        is_new: bool,
    ) -> Result<Changed, Problem> {
        let status = self.status().await?;
        let view = view::instance(desired, &status, id).ok_or_else(Problem::internal)?;
        Ok(Changed::Done {
            version: version(desired, id, &desired.standing(id)),
            view,
            is_new,
        })
    }

    async fn status(&self) -> Result<RelayStatus, Problem> {
        self.relay.status().await.map_err(|_| view::ended())
    }

    fn tell(&self, kind: &str, id: &InstanceId) {
        self.events.publish(kind, &json!({"instance": id.as_str()}));
    }

    async fn write<T: Send + 'static>(
        &self,
        write: impl FnOnce(&mut Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Problem> {
        let path = self.config.load().state_file.clone();
        let task = spawn_blocking(move || write(&mut Store::open(&path)?));
        match task.await {
            Ok(written) => Ok(written?),
            Err(panic) => {
                tracing::error!(%panic, "a change could not be written down");
                Err(Problem::internal())
            }
        }
    }

    /// A client may be invited, enrolled or in the file; one that nobody knows is a typing error.
    async fn know_client(&self, name: &str) -> Result<(), Problem> {
        let config = self.config.load_full();
        let listed = spawn_blocking(move || clients::list(&config, UnixTime::now())).await;
        let listed = listed.map_err(|_| Problem::internal())??;
        let is_known = |it: &clients::Listed| it.name == name && it.state != State::Revoked;
        if listed.iter().any(is_known) {
            return Ok(());
        }
        Err(Problem::invalid(
            "/client",
            format!("no client is called {name:?}: invite it first (POST /api/invites)"),
        ))
    }
}

/// The version of an instance: of what was said about it, not of how it stands.
pub(super) fn version(desired: &Desired, id: &InstanceId, standing: &Standing) -> Version {
    let services = desired.reservations.get(id).map(|it| {
        let services = it.services.iter();
        let services = services.map(|it| {
            let public = it.public.to_string();
            (it.name.to_string(), it.protocol.to_string(), public)
        });
        (it.client.as_str(), services.collect::<Vec<_>>())
    });
    Version::of(&(id.as_str(), services, standing.state, &standing.text))
}

/// 10,000 bans: each is looked at when one is made. Long lists are files.
const BANS: usize = 10_000;
/// How late a ban may end.
const EXPIRY: Duration = Duration::from_secs(1);
