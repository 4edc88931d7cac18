//! A network of one's own, in which a test may drop packets without touching the machine's.

use std::{
    fs::{self, File},
    io::Read,
    net::Ipv4Addr,
    os::fd::AsFd,
    panic,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{ports, process, skip};

/// Runs a test's body in a new network namespace that holds nothing but a loopback interface; whatever it starts is
/// in there too. Skips the test where no namespace can be made.
pub(crate) fn isolated(body: impl FnOnce() + Send) {
    if rustix::process::geteuid().is_root() {
        ports::claim();
        let name = thread::current().name().unwrap_or("isolated").to_owned();
        // Only this thread moves; it never comes back.
        let inner = thread::Builder::new().name(name);
        let outcome = thread::scope(|scope| {
            inner
                .spawn_scoped(scope, || match enter() {
                    Ok(()) => body(),
                    Err(reason) => skip(&reason),
                })
                .unwrap()
                .join()
        });
        if let Err(panic) = outcome {
            panic::resume_unwind(panic);
        }
    } else {
        skip("a network namespace takes root");
    }
}

/// A further network, joined to this one by a link of Ethernet's usual size; it goes with its value.
pub(crate) struct FarSide {
    holder: Child,
    /// Its end of the link; this side's is beside it.
    pub(crate) address: Ipv4Addr,
}

impl FarSide {
    /// Called in a namespace of one's own. The link is `near` here and `far` there.
    pub(crate) fn new() -> Self {
        Self::linked("near", "far", 77)
    }

    /// A second one. The link is `near1` here and `far1` there.
    pub(crate) fn another() -> Self {
        Self::linked("near1", "far1", 78)
    }

    /// The link has the network `10.NUMBER.0.0/24`: 2 is here, 1 is there.
    fn linked(near: &str, far: &str, number: u8) -> Self {
        let holder = hold().unwrap();
        let there = holder.id().to_string();
        ip(&[
            "link", "add", near, "type", "veth", "peer", "name", far, "netns", &there,
        ]);
        ip(&[
            "address",
            "add",
            &format!("10.{number}.0.2/24"),
            "dev",
            near,
        ]);
        ip(&["link", "set", near, "up"]);
        let side = Self {
            holder,
            address: Ipv4Addr::new(10, number, 0, 1),
        };
        side.ip("link set lo up");
        side.ip(&format!("address add 10.{number}.0.1/24 dev {far}"));
        side.ip(&format!("link set {far} up"));
        side
    }

    /// Runs `ip` there with these arguments.
    pub(crate) fn ip(&self, args: &str) {
        let prefix = self.prefix();
        let mut there = process::command(&prefix[0]);
        there.args(&prefix[1..]).arg("ip").args(args.split(' '));
        process::run("ip", &mut there).success();
    }

    /// Runs something there; the sockets that it makes stay there.
    pub(crate) fn visit<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        let path = format!("/proc/{}/ns/net", self.holder.id());
        thread::scope(|scope| {
            let visitor = scope.spawn(|| {
                let namespace = File::open(path).unwrap();
                let network = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(namespace.as_fd(), network).unwrap();
                body()
            });
            visitor.join().unwrap()
        })
    }

    /// What to put before a command so that it runs there.
    pub(crate) fn prefix(&self) -> [String; 3] {
        let network = format!("--net=/proc/{}/ns/net", self.holder.id());
        ["nsenter".to_owned(), network, "--".to_owned()]
    }
}

impl Drop for FarSide {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        self.holder.wait().ok();
    }
}

/// Runs `ip` with these arguments.
pub(crate) fn ip(args: &[&str]) {
    process::run("ip", process::command("ip").args(args)).success();
}

/// What to put before a command so that it takes names from this file in the place of `/etc/hosts`; the file may change while
/// it runs. Skips the test where that cannot be done.
pub(crate) fn own_hosts(hosts: &Path) -> Option<Vec<String>> {
    own_names("mount --bind \"$0\" /etc/hosts && exec \"$@\"", hosts)
}

/// The same, and what is not in the file is asked of a name server on loopback, port 53.
pub(crate) fn own_hosts_and_server(hosts: &Path) -> Option<Vec<String>> {
    fs::write(hosts.with_extension("resolv"), "nameserver 127.0.0.1\n").unwrap();
    own_names(
        "mount --bind \"$0\" /etc/hosts && mount --bind \"$0.resolv\" /etc/resolv.conf && exec \"$@\"",
        hosts,
    )
}

fn own_names(script: &str, hosts: &Path) -> Option<Vec<String>> {
    let hosts = hosts.to_str().unwrap();
    let prefix = ["unshare", "--mount", "--", "sh", "-c", script, hosts];
    let mut tried = process::command(prefix[0]);
    tried.args(&prefix[1..]).arg("true").stderr(Stdio::null());
    let works = process::spawn(&mut tried)
        .and_then(|mut child| child.wait())
        .is_ok_and(|status| status.success());
    if !works {
        skip("a mount namespace takes root");
    }
    works.then(|| prefix.map(str::to_owned).to_vec())
}

/// Replaces the namespace's packet filter with these rules.
pub(crate) fn filter(rules: &str) {
    let table = format!("flush ruleset; table inet adit {{ {rules}; }}");
    process::run("nft", process::command("nft").arg(table)).success();
}

/// Lets every packet pass again.
pub(crate) fn clear_filter() {
    process::run("nft", process::command("nft").args(["flush", "ruleset"])).success();
}

fn enter() -> Result<(), String> {
    // The namespace lives as long as someone is in it: first this process, then we.
    let mut holder = hold()?;
    let entered = File::open(format!("/proc/{}/ns/net", holder.id())).and_then(|namespace| {
        let network = Some(LinkNameSpaceType::Network);
        Ok(move_into_link_name_space(namespace.as_fd(), network)?)
    });
    drop(holder.stdin.take());
    holder.wait().unwrap();
    entered.map_err(|error| format!("no network namespace: {error}"))?;
    ip(&["link", "set", "lo", "up"]);
    Ok(())
}

/// A process in a network namespace of its own, which ends when its input is closed.
fn hold() -> Result<Child, String> {
    let mut holder = Command::new("unshare");
    holder.args(["--net", "--", "sh", "-c", "echo there; exec cat"]);
    holder.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut holder = process::spawn(&mut holder).map_err(|error| format!("unshare: {error}"))?;
    let heard = holder.stdout.as_mut().unwrap().read_exact(&mut [0; 6]);
    if let Err(error) = heard {
        holder.wait().unwrap();
        return Err(format!("no network namespace: {error}"));
    }
    Ok(holder)
}
