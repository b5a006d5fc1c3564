//! The applets against the host's own tools, and the program alone as PID 1 in a root of its own.

#![allow(clippy::unwrap_used)] // A test that cannot set itself up shall fail.
#![allow(clippy::print_stderr)] // A skipped test says so.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const TOOLBOX: &str = env!("CARGO_BIN_EXE_toolbox");

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("toolbox-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn toolbox(args: &[&str]) -> Output {
    Command::new(TOOLBOX).args(args).stdin(Stdio::null()).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A directory of links to the toolbox, to be the whole PATH.
fn install(directory: &Path) {
    std::fs::create_dir_all(directory).unwrap();
    std::fs::copy(TOOLBOX, directory.join("toolbox")).unwrap();
    assert!(toolbox(&["--install", directory.to_str().unwrap()]).status.success());
}

#[test]
fn every_listed_applet_has_a_help_line() {
    let list = text(&toolbox(&["--list"]));
    assert!(list.lines().count() > 60);
    for name in list.lines().filter(|n| !["echo", "printf", "test", "[", "true", "false", "yes"].contains(n)) {
        let help = toolbox(&[name, "--help"]);
        assert!(help.status.success(), "{name}");
        assert!(text(&help).starts_with(&format!("usage: {name} ")), "{name}");
    }
}

#[test]
fn unknown_applet_exits_with_127() {
    let output = toolbox(&["nosuch"]);
    assert_eq!(output.status.code(), Some(127));
    assert!(String::from_utf8_lossy(&output.stderr).contains("nosuch: no such applet"));
}

/// Lines run by `sh -c` with the toolbox's applets as PATH and with the host's: the output must be the same.
const LINES: &[&str] = &[
    r"printf 'b 2\na 10\nc 1\na 2\n' | sort",
    r"printf 'b 2\na 10\nc 1\na 2\n' | sort -k2n",
    r"printf '10\n9\n-1\n2.5\n' | sort -n; printf 'x\nX\ny\n' | sort -fu",
    r"printf 'a:3\nb:1\n' | sort -t: -k2; printf '2K\n1M\n3\n' | sort -h; printf 'b\na\nb\n' | sort -ru",
    r"printf 'a\na\nb\na\n' | uniq; printf 'a\na\nb\n' | uniq -c; printf 'a\na\nb\n' | uniq -d; printf 'a\na\nb\n' | uniq -u",
    r"printf 'a:b:c\nd:e\nnone\n' | cut -d: -f2; printf 'a:b:c\n' | cut -d: -f1,3; printf 'a:b:c:d\n' | cut -d: -f2-; printf 'abcdef\n' | cut -c2-4,6",
    r"echo 'hello world' | tr a-z A-Z; echo aabbcc | tr -s a-c; echo a1b2 | tr -d 0-9; echo abc | tr -c 'b\n' x; echo 'a b' | tr '[:space:]' '\n'",
    r"seq 5 | head -n 2; seq 5 | tail -n 2; seq 5 | tail -n +4; seq 5 | head -c 3; seq 5 | head -2; seq 3 -1 1; seq 1 .5 2; seq -s, 3; seq -w 8 10",
    r"printf 'one two\nthree\n' | wc -l; printf 'one two\nthree\n' | wc -c; printf 'one two\n' | wc -w",
    r"printf 'apple\nBanana\ncherry\n' | grep an; printf 'apple\nBanana\n' | grep -i b; printf 'a\nb\n' | grep -v a; printf 'a\nb\na\n' | grep -c a; printf 'a\nb\n' | grep -n b",
    r"printf 'foo123\nbar\n' | grep -E '^[a-z]+[0-9]{3}$'; printf 'a.b\naxb\n' | grep -F a.b; printf 'cat dog\n' | grep -o 'd.g'; echo x | grep -q y; echo $?; printf 'ab\n' | grep 'a\|z'",
    r"printf 'a\nb\nc\nd\n' | grep -A1 b; printf 'a\nb\nc\n' | grep -B1 c; printf 'word words\n' | grep -w word; printf 'x\n' | grep -x 'x'",
    r"echo hello | sed 's/l/L/'; echo hello | sed 's/l/L/g'; echo 'a b' | sed 's/\(a\) \(b\)/\2 \1/'; echo abc | sed -E 's/(b)(c)/[\2&]/'; seq 5 | sed -n '2,3p'; seq 5 | sed '2d;4d'",
    r"seq 5 | sed '$d'; seq 5 | sed -n '/3/,$p'; echo /usr/bin | sed 's|/usr|/opt|'; seq 3 | sed '2q'; echo aXb | sed 's/x/-/I'; echo abxc | sed 's/x*/-/g'; seq 4 | sed '2!d'",
    r"basename /a/b.c .c; basename /; dirname /a/b /c d; echo 'a b' c | xargs; printf 'a\nb\n' | xargs -n1 echo x; printf 'a b\nc\n' | xargs -I{} echo '<{}>'; echo | xargs echo none",
    r"printf '%5.1f|%e|%g|%x|%o|%s|%5s|%-5s|\n' 3.14159 12345.678 0.0001 255 8 str ab cd; printf '%d %i\n' 12 -3; printf '%s %s\n' a b c",
    r"echo hello | sha256sum; printf '' | sha256sum; date -u -d @0; date -u -d @1700000000 '+%Y-%m-%d %H:%M:%S %j %a %b %e'",
    r"mkdir -p d/e/f; echo x >d/e/f/g; cp -r d c; find c | sort; find c -type f; find . -name g | sort; find c -maxdepth 1 -type d | sort; rm -r d c; ls",
    r"echo a >f; ln -s f l; readlink l; cat l; cp -a l m; readlink m; mv m n; ls; chmod 600 f; stat -c '%a %s %F %n' f; chmod u+x,g=r f; stat -c %A f; rm f l n",
    r"mkdir t; touch t/b t/a t/.h; ls t; ls -a t; ls -A t; ls -d t; ls -1r t; rmdir t 2>/dev/null; echo $?; rm -rf t; ls",
    r"printf abc >x; dd if=x of=y bs=1 skip=1 count=1 2>/dev/null; cat y; dd if=/dev/zero bs=1k count=2 2>/dev/null | wc -c; rm x y; echo a | tee q; cat q; rm q",
    r"env -i A=1 B=2 env; env -i sh -c 'echo ${PATH:+set}' ; echo $(uname -s) $(uname -m); sleep 0.01; true; echo $?; false; echo $?; nproc; id -u; whoami",
    r"touch -d @1000000000 z; stat -c %Y z; find . -name z -newer /etc/passwd; [ z -ot /etc/passwd ]; echo $?; rm z; timeout 0.1 sleep 5; echo $?; timeout 5 sh -c 'exit 3'; echo $?",
    r"mkdir s; printf 'k=v\n' >s/a; sed -i 's/v/w/' s/a; cat s/a; grep -r w s; du -s s | cut -f2; find s -name a -exec cat {} \; ; find s -name a -delete; ls s; rmdir s",
    r"cat /nonexistent 2>/dev/null; echo $?; rm /nonexistent 2>/dev/null; echo $?; rm -f /nonexistent; echo $?; ls /nonexistent 2>/dev/null || echo failed; mkdir / 2>/dev/null; echo $?",
    r"yes | head -n 2; yes a b | head -n 1; echo 'x  y' | while read a b; do echo $b$a; done; expr=1; realpath /usr/../usr/./bin; readlink -f /bin/sh >/dev/null; echo $?",
];

#[test]
fn applets_do_what_the_hosts_tools_do() {
    let scratch = Scratch::new("applets");
    let bin = scratch.0.join("bin");
    install(&bin);
    let mut wrong = Vec::new();
    for line in LINES {
        let run = |shell: &Path, path: &str| {
            let work = scratch.0.join("work");
            std::fs::create_dir_all(&work).unwrap();
            let mut command = Command::new(shell);
            command.args(["-c", line]).current_dir(&work).stdin(Stdio::null()).stderr(Stdio::null());
            let output = command.env_clear().env("PATH", path).env("LC_ALL", "C").output().unwrap();
            std::fs::remove_dir_all(&work).unwrap();
            text(&output)
        };
        let ours = run(&bin.join("sh"), bin.to_str().unwrap());
        let theirs = run(Path::new("/bin/sh"), "/usr/bin:/bin");
        if ours != theirs {
            wrong.push(format!("--- {line}\n--- toolbox\n{ours}--- host\n{theirs}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ\n{}", wrong.len(), LINES.len(), wrong.join("\n"));
}

fn skipped(name: &str, reason: &str) {
    use std::io::Write;
    eprintln!("TEST {name}: {reason}");
    if let Ok(file) = std::env::var("STRATA_TEST_SKIPS") {
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(file).unwrap();
        writeln!(file, "TEST {name}: {reason}").unwrap();
    }
}

/// Runs arguments of the toolbox in new namespaces with nothing but the program in the root.
fn alone(scratch: &Scratch, args: &[&str]) -> Option<Output> {
    let root = scratch.0.join("root");
    std::fs::create_dir_all(&root).unwrap();
    std::fs::copy(TOOLBOX, root.join("toolbox")).unwrap();
    let mut unshare = Command::new("unshare");
    unshare.args(["--fork", "--pid", "--mount", "--net", "--root"]).arg(&root);
    let output = unshare.arg("/toolbox").args(args).env_clear().stdin(Stdio::null()).output().ok()?;
    let refused = String::from_utf8_lossy(&output.stderr).contains("unshare");
    (!refused).then_some(output)
}

#[test]
fn the_program_alone_is_a_working_userland() {
    let scratch = Scratch::new("alone");
    let script = "echo pid $$; echo a b | cut -d' ' -f2 | tr b c; mkdir proc tmp; mount -t proc proc /proc && ps -o pid,comm | head -n 2 | tail -n 1; ip link set lo up && ip -br addr | head -n 1; ls; umount /proc; nosuch; echo $?";
    let Some(output) = alone(&scratch, &["sh", "-c", script]) else {
        return skipped("the_program_alone_is_a_working_userland", "no new namespaces are allowed here");
    };
    let text = text(&output);
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    assert_eq!(lines[..2], ["pid 1", "c"], "{output:?}");
    assert_eq!(lines[2].trim(), "1 toolbox", "{output:?}");
    assert!(lines[3].starts_with("lo ") && lines[3].contains("127.0.0.1/8"), "{output:?}");
    assert_eq!(lines[4..], ["proc", "tmp", "toolbox", "127"], "{output:?}");
}

#[test]
fn init_forwards_the_status_and_reaps_orphans() {
    let scratch = Scratch::new("init");
    let script = "mkdir proc; mount -t proc proc /proc; (sleep 0.05 & ) ; sleep 0.2; ps -e -o stat | grep -c Z; umount /proc; exit 7";
    let Some(output) = alone(&scratch, &["init", "sh", "-c", script]) else {
        return skipped("init_forwards_the_status_and_reaps_orphans", "no new namespaces are allowed here");
    };
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert_eq!(text(&output), "0\n");
}

#[test]
fn init_hands_signals_to_its_command() {
    let mut child = Command::new(TOOLBOX)
        .args(["init", "sh", "-c", "trap 'echo term; exit 9' TERM; echo ready; while :; do sleep 0.02; done"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut reader = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut reader, &mut line).unwrap();
    assert_eq!(line, "ready\n");
    assert!(toolbox(&["kill", &child.id().to_string()]).status.success());
    line.clear();
    std::io::BufRead::read_line(&mut reader, &mut line).unwrap();
    assert_eq!(line, "term\n");
    assert_eq!(child.wait().unwrap().code(), Some(9));
}

#[test]
fn every_workload_reports_a_positive_number_as_json() {
    let scratch = Scratch::new("bench");
    let list = text(&toolbox(&["bench", "LIST"]));
    for name in list.lines().filter_map(|l| l.split_whitespace().next()).filter(|n| *n != "start") {
        let output = toolbox(&["bench", name, "--ops", "3", "--json", "--dir", scratch.0.to_str().unwrap()]);
        let text = text(&output);
        assert!(output.status.success(), "{name}: {output:?}");
        assert!(text.starts_with(&format!("{{\"name\":\"{name}\",\"value\":")) && text.ends_with("}\n"), "{text}");
        let value: f64 = text.split("\"value\":").nth(1).unwrap().split(',').next().unwrap().parse().unwrap();
        assert!(value > 0.0, "{text}");
    }
    assert_eq!(std::fs::read_dir(&scratch.0).unwrap().count(), 0, "a workload left files behind");
}
