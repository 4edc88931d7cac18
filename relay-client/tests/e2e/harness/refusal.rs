//! Systems that cannot do something: a system call that is refused, for one program.

/// What to put before a command so that this system call fails with this error, for every first argument or for one. It
/// takes Perl, and a kernel that lets a process restrict itself (seccomp(2)).
pub(crate) fn refusing(call: i64, argument: Option<u32>, error: i32) -> Vec<String> {
    let argument = argument.map_or_else(|| "any".to_owned(), |argument| argument.to_string());
    let numbers = [libc::SYS_prctl, call, i64::from(error)].map(|number| number.to_string());
    let script = ["perl", "-e", SCRIPT, "--"].map(str::to_owned);
    [&script[..], &numbers, &[argument]].concat()
}

/// A program of BPF for seccomp, and whatever follows the numbers.
const SCRIPT: &str = r#"
my ($prctl, $call, $error, $argument) = splice(@ARGV, 0, 4);
# Load the call's number, and where it matters the low half of its first argument (little-endian).
my @checks = ([0x20, 0, 0, 0], [0x15, 0, undef, $call]);
push @checks, [0x20, 0, 0, 16], [0x15, 0, undef, $argument] unless $argument eq "any";
my @program = (@checks, [0x06, 0, 0, 0x00050000 | $error], [0x06, 0, 0, 0x7fff0000]);
# Whoever is another is allowed: the last line.
$program[$_][2] //= $#program - $_ - 1 for 0..$#program;
my $filter = join "", map { pack "SCCL", @$_ } @program;
my $fprog = pack "S x![P] P", scalar(@program), $filter;
syscall($prctl, 38, 1, 0, 0, 0) == 0 or die "no_new_privs: $!";
syscall($prctl, 22, 2, $fprog) == 0 or die "seccomp: $!";
exec @ARGV or die "$ARGV[0]: $!";
"#;
