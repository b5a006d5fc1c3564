//! The shell against dash, the /bin/sh of Debian: the same scripts must give the same output and status.

#![allow(clippy::unwrap_used)] // A test that cannot set itself up shall fail.

use std::process::{Command, Stdio};

const TOOLBOX: &str = env!("CARGO_BIN_EXE_toolbox");

fn run(mut command: Command, script: &str, directory: &std::path::Path) -> (String, Option<i32>) {
    let command = command.arg("-c").arg(script).args(["name", "one", "two words"]).current_dir(directory);
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", "/h")
        .output()
        .unwrap();
    (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.code())
}

const SCRIPTS: &[&str] = &[
    // Quoting and parameters.
    r#"echo a  b 'c  d' "e  $1 f" g\ h \$1 "\$1 \\ \a""#,
    r#"echo $# "$@" $0; for a in "$@"; do echo "<$a>"; done; for a in $*; do echo "<$a>"; done; for a in "$*"; do echo "<$a>"; done"#,
    r#"x=abc; echo ${x} ${#x} ${y:-def} ${y-} ${x:+set} ${y:+set}; echo ${y:=new} $y; y=; echo ${y-unset} ${y:-empty}"#,
    r#"f=/a/b.tar.gz; echo ${f##*/} ${f%/*} ${f%.*} ${f%%.*} ${f#*/} "${f#/a}""#,
    r#"x='a b  c'; echo $x "$x"; set -- $x; echo $#; IFS=:; y=a:b::c; set -- $y; echo $# $3-$4"#,
    r#"IFS=' :'; x=' a : b ::c '; set -- $x; echo $#; for i; do echo "[$i]"; done"#,
    r#"set -- "" a ""; echo $#; set -- $1; echo $#; set -- ""$1""; echo $#"#,
    r#"x=; set -- $x "$x" '' ${y} "${y}"; echo $#"#,
    r#"echo "${x:-a b}" ${x:-a b} ${x:-'a  b'} "${x:-"q q"}" ${x:-$1}"#,
    r#"echo ${1#o} ${2%words} "${2#* }"; p='o*'; echo ${1#$p} "${1#"$p"}""#,
    r#"echo ~ ~/x '~' "~" x~"#,
    r#"x=1 y=2; echo $x$y "${x}0"; x=$y$x; echo $x; unset x; echo "[$x]""#,
    r#"echo $(echo a; echo b) "$(printf 'x\n\n')" `echo q` `echo \`echo nested\``"#,
    r#"echo "$(echo "inner $(echo "deep \"q\"")")""#,
    r#"x=$(exit 3); echo $?; y=$(echo hi)z; echo $y $?"#,
    r#"echo $((1+2*3)) $(( (1+2)*3 )) $((7/2)) $((7%3)) $((-7/2)) $((1<<4|1)) $((5>3)) $((5==3)) $((!0)) $((~0))"#,
    r#"x=5; echo $((x+1)) $(($x*2)) $((x=x+2)) $x $((x+=3)) $((1?2:3)) $((0x1f)) $((010)) $((1&&0)) $((1||0))"#,
    r#"i=0; while [ $i -lt 5 ]; do i=$((i+1)); [ $i = 2 ] && continue; [ $i = 4 ] && break; echo $i; done; echo end $i"#,
    r#"for i in 1 2; do for j in a b; do [ $j = b ] && continue 2; echo $i$j; done; done; for i in 1 2; do for j in a b; do break 2; done; done; echo $i$j"#,
    r#"until [ "$n" = xxx ]; do n=x$n; done; echo $n"#,
    // Conditions, lists, groups.
    r#"true && echo yes || echo no; false && echo yes || echo no; ! true; echo $?; ! false; echo $?"#,
    r#"if false; then echo a; elif true; then echo b; else echo c; fi; if false; then :; fi; echo $?"#,
    r#"case abc in a) echo 1;; a*) echo 2;; *) echo 3;; esac; case x in (y|x) echo yx;; esac; case "" in '') echo empty;; esac"#,
    r#"x='*'; case 'a*' in a"$x") echo lit;; esac; case ab in a$x) echo pat;; esac; case '[' in '[') echo br;; esac; case b in [!a]) echo not;; esac"#,
    r#"(x=2; echo $x; exit 4); echo $? $x; { x=3; echo $x; }; echo $x"#,
    r#"f() { echo "f $# $1"; return 3; echo never; }; f a b; echo $? $1; g() { local x=in; x=2; echo $x; }; x=out; g; echo $x"#,
    r#"fact() { if [ $1 -le 1 ]; then echo 1; else echo $(( $1 * $(fact $(($1-1))) )); fi; }; fact 10"#,
    r#"f() ( cd /; x=1 ); x=0; f; echo $x; f() { shift; echo $1; }; f a b"#,
    // Redirections.
    r#"echo hi >f; cat f; echo more >>f; cat <f; cat f | wc -l | tr -d ' '; rm f"#,
    r#"{ echo out; echo err >&2; } 2>/dev/null; { echo out; echo err >&2; } >f 2>&1; cat f; rm f"#,
    r#"exec 3>f; echo three >&3; exec 3>&-; cat f; exec 4<f; read x <&4; echo $x; rm f"#,
    r#"cat <<EOF
a $1 $((1+1)) $(echo sub) \$x "q" 'r'
  indented
EOF
echo after"#,
    "cat <<'EOF'\n$1 \\ `x`\nEOF\ncat <<-X\n\ttabs\n\t\tmore\n\tX\necho done",
    "cat <<A; cat <<B\na\nA\nb\nB\nif true; then cat <<E\nin if\nE\nfi",
    r#"while read a b; do echo "$b-$a"; done <<E
1 2 3
x y
E"#,
    r#"echo 'a\nb' | while read -r x; do echo "$x"; done; printf 'a\\tb\n' | { read x; echo "$x"; }; printf 'no newline' | { read x; echo "$? $x"; }"#,
    r#"printf 'a:b:c:d\n' | { IFS=: read x y z; echo "$x $y $z"; }; printf '  lead trail  \n' | { read x; echo "[$x]"; }"#,
    r#"cat /nonexistent; echo $?; echo x >/nonexistent/f; echo $?; cat </nonexistent; echo $?"#,
    // Pipes, jobs, status.
    r#"echo a | cat | cat; false | true; echo $?; true | false; echo $?; exit 3 | exit 4; echo $?"#,
    r#"sleep 0.05 & wait; echo $?; (exit 7) & wait $!; echo $?; wait 99999; echo $?"#,
    r#"nosuchcommand; echo $?; /nonexistent/x; echo $?; /etc/passwd; echo $?; /; echo $?"#,
    r#"sh -c 'kill -9 $$'; echo $?; sh -c 'kill -TERM $$'; echo $?"#,
    r#"set -e; false || true; if false; then :; fi; ! true; echo alive; false; echo dead"#,
    r#"set -e; f() { false; echo in; }; f || echo or; f; echo dead"#,
    r#"set -e; (false); echo dead"#,
    r#"set -e; x=$(false); echo dead"#,
    r#"set -u; echo ${x-ok}; echo $x; echo dead"#,
    r#"set -- a b c; shift; echo $*; shift 2; echo $#; set -- -x; echo $1; set -f; echo *; set +f"#,
    r#"x=1; export x; sh -c 'echo $x'; y=2 sh -c 'echo $y'; echo "[$y]"; export z=3; env | grep ^z="#,
    r#"readonly r=1; (r=2; echo dead); echo $?; r=3; echo dead"#,
    r#"eval 'x=1; echo $x'; eval "echo \$x" ; eval; echo $?; echo 'echo sourced $1' >s; . ./s; rm s"#,
    r#"trap 'echo bye' EXIT; echo hi; exit 5"#,
    r#"trap 'echo got' TERM; kill -TERM $$; echo after; trap - TERM; trap"#,
    r#"trap 'echo usr' USR1; (kill -USR1 $$); sleep 0.05; echo x; trap '' USR1; kill -USR1 $$; echo ignored"#,
    r#"(trap 'echo sub' EXIT; echo in); echo out"#,
    r#"while getopts ab:c o -a -b val -c rest; do echo "$o $OPTARG"; done; echo $OPTIND"#,
    r#"set -- -xy -z; while getopts :xz: o; do echo "$o [$OPTARG]"; done; shift $((OPTIND-1)); echo $#"#,
    r#"umask 027; umask; umask 22; umask; command -v cd; command -v sh >/dev/null; echo $?; command -v nosuch; echo $?"#,
    r#"cd /usr; pwd; cd bin/..; pwd; cd - >/dev/null; echo $PWD; cd /nonexistent; echo $?"#,
    // Globs.
    r#"mkdir d; touch d/a.c d/b.c d/.h d/x; cd d; echo *; echo *.c; echo .h*; echo ?; echo [ab]*; echo *.none '*' "*" \*; cd ..; echo d/*.c */x; rm -r d"#,
    r#"mkdir -p e/f; touch 'e/f/a b'; for x in e/*/*; do echo "<$x>"; done; x='e/*'; echo $x "$x"; rm -r e"#,
    // Builtins with output.
    r#"echo -n a; echo b; echo 'a\tb\\c'; echo "x\c"; echo y"#,
    r#"printf '%s-%d|%5s|%-5s|%05d|%x|%o|%c\n' str 42 ab cd 42 255 8 xyz; printf '%s\n' a b c; printf '%b|%%\n' 'a\tb'; printf '%.2f\n' 3.14159; printf 'x%sy\n'"#,
    r#"[ 1 -eq 1 ] && [ a != b ] && [ -n x ] && [ -z "" ] && [ -d / ] && [ ! -f / ] && echo all; [ a = b -o 1 = 1 ] && echo or; [ x ]; echo $?; [ ]; echo $?; [ 1 -eq x ]; echo $?"#,
    // Syntax errors and odd forms.
    "echo a\n)\necho b",
    "if true; then echo a",
    "echo 'unterminated",
    "echo a; ; echo b",
    "\n\n# comment\necho a # comment\n echo b;#no\necho c#yes\n",
    "echo a \\\n b; ec\\\nho joined; x=\"a\\\nb\"; echo $x",
    "if true\nthen\n echo x\nfi\nfor i in a b\ndo\n echo $i\ndone\ncase a in\n a)\n echo A\n ;;\nesac",
    "f()\n{\n echo f\n}\nf; a() { echo 1; }; b() if true; then echo b; fi; a; b",
    r#"echo {a,b} a=b x'y'z"w" 2 3>/dev/null >&1"#,
    r#"x=a; x=b echo $x; echo $x; x=c :; echo $x; x=d true; echo $x"#,
    r#"exit 256; echo x"#,
    r#"return 3 2>/dev/null; echo after"#,
    r#"exec sh -c 'echo replaced'; echo dead"#,
    r#"echo "$-" | tr -d a-zA-Z; echo ${#} ${#1} "${#2}""#,
    r#"break; echo ok; for i in; do echo never; done; for i in a; do :; done; echo $i"#,
    r#"a=1; { a=2; } | cat; echo $a; echo x | { read a; echo $a; }; echo $a"#,
    r#"echo $(( 08 )); echo dead"#,
    r#"echo $((1/0)); echo dead"#,
    r#"echo ${x?gone}; echo dead"#,
    r#"x=`cat <<E
here $1
E
`; echo "$x""#,
    r#"x="a'b"; echo "$x" 'c"d' "it's"; echo "a`echo "b c"`d""#,
    r#"n=0; for i in $(seq 1 100); do n=$((n+i)); done; echo $n"#,
    r#"type cd | head -c 2; echo; kill -l 9; kill -0 $$; echo $?"#,
    r#"f() { cat; }; echo piped | f; f <<E
doc
E
f <f0 2>/dev/null; echo $?"#,
    r#"set -o noglob; echo *; set +o noglob; set -o nosuch; echo dead"#,
    r#"test -t 0; echo $?; [ "(" = "(" ]; echo $?; [ ! "" ]; echo $?; [ -e /etc/passwd -a -r /etc/passwd ]; echo $?"#,
];

#[test]
fn scripts_do_what_dash_does() {
    if !std::path::Path::new("/usr/bin/dash").exists() {
        let reason = "scripts_do_what_dash_does: /usr/bin/dash is not installed";
        eprintln!("TEST {reason}");
        if let Ok(file) = std::env::var("STRATA_TEST_SKIPS") {
            use std::io::Write;
            let mut file = std::fs::OpenOptions::new().append(true).create(true).open(file).unwrap();
            writeln!(file, "TEST {reason}").unwrap();
        }
        return;
    }
    let directory = std::env::temp_dir().join(format!("toolbox-shell-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let mut wrong = Vec::new();
    for script in SCRIPTS {
        let mut ours = Command::new(TOOLBOX);
        ours.arg("sh");
        let (ours, theirs) = (run(ours, script, &directory), run(Command::new("/usr/bin/dash"), script, &directory));
        if ours != theirs {
            wrong.push(format!(
                "--- script\n{script}\n--- toolbox {:?}\n{}--- dash {:?}\n{}",
                ours.1, ours.0, theirs.1, theirs.0
            ));
        }
    }
    std::fs::remove_dir_all(&directory).unwrap();
    assert!(wrong.is_empty(), "{} of {} scripts differ\n{}", wrong.len(), SCRIPTS.len(), wrong.join("\n"));
}
