//! The health checks of a client's services: each has a task of its own, which asks the target and tells the client's main task.

mod ask;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};

use self::ask::{Outcome, ask};
use crate::{
    client::{shared::Shared, targets::Target},
    health::{Health, HealthCheck, HealthState, Monitor, OnUnhealthy, REASON_MAX, Report, plain},
    instance::{InstanceId, ServiceName},
    proto::{message::ServiceId, session::client::ClientSession},
    tunnel::{futures::sleep_until, supervise::supervise},
};

/// The checks that run.
pub(crate) struct Checks {
    shared: Arc<Shared>,
    running: HashMap<Checked, Running>,
    next: u64,
    results: mpsc::Sender<CheckResult>,
    /// Places of checks under way.
    places: Arc<Semaphore>,
}

/// Which service a check is of.
pub(crate) type Checked = (InstanceId, ServiceName);

/// What is known of a service after a check.
#[derive(Debug)]
pub(crate) struct CheckResult {
    pub(crate) checked: Checked,
    pub(crate) health: Health,
    /// The check has had its answer.
    pub(crate) works: bool,
    /// Which run of checks it is of; an earlier one of the service may have been replaced.
    run: u64,
}

struct Running {
    check: HealthCheck,
    target: Arc<Target>,
    run: u64,
    _stop: DropGuard,
}

impl Checks {
    /// None runs. Their results come from the receiver.
    pub(crate) fn new(shared: Arc<Shared>) -> (Self, mpsc::Receiver<CheckResult>) {
        let (results, received) = mpsc::channel(RESULTS);
        let checks = Self {
            shared,
            running: HashMap::new(),
            next: 0,
            results,
            places: Arc::new(Semaphore::new(AT_ONCE)),
        };
        (checks, received)
    }

    /// Follows the session's services: starts, replaces and ends checks. Returns the services whose checks have ended or begun
    /// anew, of which nothing is known any more.
    pub(crate) fn follow(&mut self, session: &ClientSession) -> Vec<Checked> {
        let wanted = self.wanted(session);
        let is_same = |checked: &Checked, running: &Running| {
            wanted.get(checked).is_some_and(|(check, target)| {
                running.check == *check && Arc::ptr_eq(&running.target, target)
            })
        };
        let mut ended = Vec::new();
        self.running.retain(|checked, running| {
            let stays = is_same(checked, running);
            if !stays {
                ended.push(checked.clone());
            }
            stays
        });
        for (checked, (check, target)) in wanted {
            if !self.running.contains_key(&checked) {
                self.start(checked, check, target);
            }
        }
        ended
    }

    /// Whether a result is of a check that still runs.
    pub(crate) fn is_current(&self, result: &CheckResult) -> bool {
        let running = self.running.get(&result.checked);
        running.is_some_and(|running| running.run == result.run)
    }

    /// The checks that the services ask for, and where these lead.
    fn wanted(&self, session: &ClientSession) -> HashMap<Checked, (HealthCheck, Arc<Target>)> {
        let targets = self.shared.targets.load();
        let target = |id: &ServiceId| targets.get(id).cloned();
        let wanted = session
            .wanted_services()
            .filter_map(|(id, instance, service)| {
                let checked = (instance.clone(), service.name.clone());
                Some((checked, (service.health.clone()?, target(&id)?)))
            });
        wanted.collect()
    }

    fn start(&mut self, checked: Checked, check: HealthCheck, target: Arc<Target>) {
        self.next += 1;
        let run = self.next;
        let stop = target.cancelled.child_token();
        let watch = Watch {
            shared: self.shared.clone(),
            checked: checked.clone(),
            check: check.clone(),
            target: target.clone(),
            run,
            results: self.results.clone(),
            places: self.places.clone(),
        };
        let watch = Arc::new(watch);
        supervise(
            self.shared.reporter(),
            stop.clone(),
            format!("the health check of {}/{}", checked.0, checked.1),
            move || watch.clone().run(),
        );
        let running = Running {
            check,
            target,
            run,
            _stop: CancellationToken::drop_guard(stop),
        };
        self.running.insert(checked, running);
    }
}

/// What the task of a check needs.
struct Watch {
    shared: Arc<Shared>,
    checked: Checked,
    check: HealthCheck,
    target: Arc<Target>,
    run: u64,
    results: mpsc::Sender<CheckResult>,
    places: Arc<Semaphore>,
}

impl Watch {
    /// Asks whenever it is due, and tells what has become of it.
    async fn run(self: Arc<Self>) {
        let spread = self.check.interval.min(SPREAD).as_millis() as u64;
        let delay = Duration::from_millis(self.shared.random() % spread.max(1));
        let mut monitor = Monitor::new(&self.check, Instant::now(), delay);
        let mut last = Report::default();
        loop {
            sleep_until(Some(monitor.poll_timeout())).await;
            // Before its time runs: who hangs makes others wait for a place, and nobody unhealthy but itself.
            let Ok(_place) = self.places.acquire().await else {
                return;
            };
            let outcome = ask(&self.shared, &self.target, &self.check).await;
            let now = Instant::now();
            let reason = match outcome {
                Outcome::Skipped => {
                    monitor.handle_skipped(now);
                    continue;
                }
                Outcome::Answer(report) => {
                    last = report.bounded();
                    None
                }
                Outcome::Failure(reason) => {
                    // Who was there is not known any more.
                    last.players = None;
                    Some(plain(&reason, REASON_MAX))
                }
            };
            let works = reason.is_none();
            monitor.handle_result(now, works);
            let (state, since) = (monitor.state(), monitor.since());
            let result = CheckResult {
                checked: self.checked.clone(),
                health: Health {
                    refuses: state == HealthState::Unhealthy
                        && self.check.on_unhealthy == OnUnhealthy::Refuse,
                    reason: reason.unwrap_or_default(),
                    report: last.clone(),
                    ..Health::new(state, since)
                },
                works,
                run: self.run,
            };
            if self.results.send(result).await.is_err() {
                return;
            }
        }
    }
}

/// 64 results: the main task takes them as they come, and whoever asks too fast waits.
const RESULTS: usize = 64;
/// 64 checks under way: each has a socket, and 64 that hang for 5 s leave room for 384 services at 30 s.
const AT_ONCE: usize = 64;
/// The first checks of many services are spread over a second.
const SPREAD: Duration = Duration::from_secs(1);
