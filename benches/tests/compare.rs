//! The comparison on lines and with WireGuard, as it is called. Nothing here asserts how fast anything is.
#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test's helpers fail like the test itself, and say what was skipped"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use benches::{
    compare::data::{Cell, Metric, Report},
    link,
};

/// Runs it, and reads what it has written.
fn compare(out: &Path, flags: &str) -> (Report, String) {
    let (pid, output) = call(flags, out);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{flags}: {said}");
    assert_eq!(left_of(pid), Vec::<PathBuf>::new(), "{flags}");
    let json = fs::read_to_string(out.join("report.json")).unwrap();
    (serde_json::from_str(&json).unwrap(), said)
}

#[expect(clippy::disallowed_methods, reason = "the program is what is tested")]
fn call(flags: &str, out: &Path) -> (u32, Output) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_benches"));
    command.arg("compare").args(flags.split_whitespace());
    command.arg("--out").arg(out);
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let child = child.unwrap();
    (child.id(), child.wait_with_output().unwrap())
}

/// Namespaces and control sockets of a process that has ended.
fn left_of(pid: u32) -> Vec<PathBuf> {
    let mut left = Vec::new();
    for (directory, prefix) in [
        ("/run/netns", format!("adit-lab-{pid}-")),
        ("/var/run/wireguard", format!("wg{pid}")),
    ] {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let own = |entry: &fs::DirEntry| {
            let name = entry.file_name();
            name.to_string_lossy().starts_with(&prefix)
        };
        left.extend(entries.filter(own).map(|entry| entry.path()));
    }
    left
}

fn available() -> bool {
    let reason = link::unavailable();
    if let Some(reason) = &reason {
        println!("skipped: {reason}");
    }
    reason.is_none()
}

fn cell<'a>(report: &'a Report, scenario: &str, column: &str) -> &'a Cell {
    let (_, measured) = report.scenario(scenario).unwrap();
    measured.cell(column).unwrap()
}

fn seeds(cell: &Cell) -> Vec<f64> {
    cell.rounds
        .iter()
        .map(|round| round[&Metric::Seed])
        .collect()
}

#[test]
fn every_transfer_has_a_seed_and_an_earlier_run_is_gone_on_with() {
    if !available() {
        return;
    }
    let out = tempfile::tempdir().unwrap();
    let up = "lines-20mbit-up-bbr";
    let short = format!("--only {up} --seconds 1 --seed 5");
    let (first, said) = compare(out.path(), &format!("{short} --transfers 2"));
    for column in ["direct", "adit-auto"] {
        let cell = cell(&first, up, column);
        assert_eq!(seeds(cell), [5.0, 6.0], "{column}");
        for round in &cell.rounds {
            assert!(round[&Metric::GbitPerSecond] > 0.0, "{column}: {round:?}");
            assert!(round[&Metric::Standstill] > 0.0, "{column}: {round:?}");
            assert!(round[&Metric::Offset] > 0.0, "{column}: {round:?}");
        }
        assert!(!cell.series.is_empty());
        assert!(cell.errors.is_empty(), "{:?}", cell.errors);
    }
    assert!(said.contains("longest standstill, ms"), "{said}");
    assert!(said.contains("rows on lines"), "{said}");

    let columns = "--columns direct,adit-auto,adit-latency";
    let more = format!("{short} --transfers 3 {columns} --resume");
    let (second, _) = compare(out.path(), &more);
    for column in ["direct", "adit-auto"] {
        let (before, after) = (cell(&first, up, column), cell(&second, up, column));
        assert_eq!(seeds(after), [5.0, 6.0, 7.0]);
        assert_eq!(after.rounds[..2], before.rounds, "{column}");
    }
    assert_eq!(seeds(cell(&second, up, "adit-latency")), [5.0, 6.0, 7.0]);
    // Nothing is left to measure.
    let (third, _) = compare(out.path(), &more);
    assert_eq!(
        cell(&third, up, "direct").rounds,
        cell(&second, up, "direct").rounds
    );
}

#[test]
fn game_and_bulk_run_beside_each_other_and_loads_in_several_tunnels() {
    if !available() {
        return;
    }
    let out = tempfile::tempdir().unwrap();
    let only = "lines-game-20mbit,lines-share-20mbit-other,lines-loss-200mbit-sparse";
    let flags = "--direction up --congestion-control bbr --transfers 1 --seconds 1";
    let (report, said) = compare(out.path(), &format!("--only {only} {flags}"));
    let figures = |scenario: &str| {
        let cell = cell(&report, scenario, "adit-auto");
        assert!(cell.errors.is_empty(), "{scenario}: {:?}", cell.errors);
        cell.rounds[0].clone()
    };
    assert!(figures("lines-game-20mbit-idle-bbr")[&Metric::P99] > 0.0);
    let beside = figures("lines-game-20mbit-upload-bbr");
    assert!(beside[&Metric::P99] > 0.0 && beside[&Metric::BesideGbitPerSecond] > 0.0);
    assert!(figures("lines-game-20mbit-upload-alone-bbr")[&Metric::GbitPerSecond] > 0.0);
    let share = figures("lines-share-20mbit-other-up-bbr");
    assert!(share[&Metric::GbitPerSecond] > 0.0 && share[&Metric::BesideGbitPerSecond] > 0.0);
    // 6 s of 1/s in each of ten tunnels.
    assert_eq!(
        figures("lines-loss-200mbit-sparse-bbr")[&Metric::Sent],
        60.0
    );
    for family in [
        "lines-game-20mbit:",
        "lines-share-20mbit:",
        "lines-loss-200mbit:",
    ] {
        assert!(said.contains(family), "{said}");
    }
}

#[test]
fn wireguard_carries_tcp_and_udp_on_loopback_and_over_a_line() {
    if !available() {
        return;
    }
    let out = tempfile::tempdir().unwrap();
    let (_, asked) = call("--list --columns wireguard", out.path());
    let said = String::from_utf8(asked.stderr).unwrap();
    if !asked.status.success() {
        // It says what to install.
        assert!(said.contains("no column called wireguard: "), "{said}");
        assert!(said.contains(" is missing ("), "{said}");
        println!("skipped: {said}");
        return;
    }
    let scenarios = ["bulk-1", "bulk-1-reverse", "trips-1", "game-1"];
    let only = "--only bulk-1,bulk-1-reverse,trips-1,game-1,lines-20mbit-up-bbr";
    let flags = "--columns direct,wireguard --rounds 1 --transfers 1 --seconds 0.5";
    let (report, said) = compare(out.path(), &format!("{only} {flags}"));
    for scenario in scenarios.into_iter().chain(["lines-20mbit-up-bbr"]) {
        let cell = cell(&report, scenario, "wireguard");
        assert!(
            cell.errors.is_empty(),
            "{scenario}: {:?}: {said}",
            cell.errors
        );
        assert!(cell.rounds[0].len() > 3, "{scenario}: {:?}", cell.rounds);
    }
}
