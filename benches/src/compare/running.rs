//! A column at work.

use std::{
    fmt,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::{
    load::{Begins, Job, Load, Seen},
    process::Process,
    topology::{Side, Topology},
    worker::Worker,
};

/// A way that works.
#[derive(Debug)]
pub(crate) struct Running {
    /// Where players go.
    pub(crate) address: SocketAddr,
    pub(crate) relay: Option<Process>,
    pub(crate) client: Option<Process>,
    /// Where its players are, if not where all others are.
    pub(crate) topology: Option<Arc<dyn Topology>>,
    /// What goes with it: files, namespaces.
    pub(crate) _kept: Option<Box<dyn fmt::Debug>>,
}

impl Running {
    pub(crate) fn processes(&self) -> [Option<&Process>; 2] {
        [self.relay.as_ref(), self.client.as_ref()]
    }

    /// Whether all of it is still there.
    pub(crate) fn check(&mut self) -> Result<()> {
        for (name, process) in [("relay", &mut self.relay), ("client", &mut self.client)] {
            if let Some(process) = process
                && let Some(status) = process.ended()?
            {
                bail!("its {name} has ended: {status}");
            }
        }
        Ok(())
    }

    /// Where its players start.
    pub(crate) fn topology<'a>(&'a self, topology: &'a dyn Topology) -> &'a dyn Topology {
        self.topology.as_deref().unwrap_or(topology)
    }

    /// Waits until TCP and, where it is about that too, UDP pass.
    pub(super) fn wait_until_it_works(&mut self, topology: &dyn Topology, udp: bool) -> Result<()> {
        let until = Instant::now() + START_PATIENCE;
        loop {
            self.check()?;
            let probe = Worker::Load(Job {
                to: self.address,
                also: Vec::new(),
                seconds: 1.0,
                spread: false,
                load: Load::Probe { tcp: true, udp },
            });
            let mut probe = Process::worker(self.topology(topology), Side::Outside, &probe)?;
            probe.says::<Begins>(PROBE_PATIENCE)?;
            match probe.says::<Seen>(PROBE_PATIENCE) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > until => return Err(error),
                Err(_) => {}
            }
        }
    }
}

/// rathole's client takes a second or two when its server was not there yet.
pub(super) const START_PATIENCE: Duration = Duration::from_secs(20);
const PROBE_PATIENCE: Duration = Duration::from_secs(10);
