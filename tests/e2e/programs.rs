//! Programs of Debian packages that do something and end, unmodified, in guests of both engines.

use skep_tests::{TestEnv, can_run};

/// What a program shall do: its image, the command, its standard input, and its output.
struct Program {
    image: &'static str,
    command: &'static [&'static str],
    input: &'static str,
    output: &'static str,
}

const SQL: &str = "\
create table bee(id integer primary key, name text, honey real);
begin;
with recursive n(i) as (select 1 union all select i + 1 from n where i < 2000)
insert into bee select i, 'bee' || i, i * 0.5 from n;
commit;
create index by_name on bee(name);
pragma journal_mode = wal;
update bee set honey = honey + 1 where id % 2 = 0;
delete from bee where id > 1990;
select count(*), sum(honey), max(name) from bee;
vacuum;
pragma integrity_check;
select json_group_array(id) from bee where name like 'bee199_';
";

const PYTHON: &str = r#"
import http.client, http.server, json, os, queue, sqlite3, subprocess, sys, threading

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.chdir("/tmp")
open("bee.txt", "w").write("honey")
for _ in range(5):
    client = http.client.HTTPConnection(*server.server_address)
    client.request("GET", "/bee.txt")
    answer = client.getresponse()
    body = answer.read()
print(answer.status, body)
server.shutdown()

print(subprocess.run(["/bin/sh", "-c", "read a; echo got $a; exit 3"], input=b"this\n", capture_output=True))
print(subprocess.check_output("seq 1 1000 | wc -l", shell=True, text=True).strip())
try:
    subprocess.run(["/missing"])
except FileNotFoundError as error:
    print(error.errno)

tasks, done = queue.Queue(), queue.Queue()
def work():
    while (n := tasks.get()) is not None:
        done.put(n * n)
threads = [threading.Thread(target=work) for _ in range(4)]
[it.start() for it in threads]
[tasks.put(n) for n in range(1000)]
[tasks.put(None) for _ in threads]
[it.join() for it in threads]
print(sum(done.get() for _ in range(1000)))

data = sqlite3.connect("bees.db")
data.execute("create table t(v)")
data.executemany("insert into t values(?)", [(n,) for n in range(1000)])
data.commit()
print(data.execute("select sum(v) from t").fetchone())
print(json.loads(json.dumps({"a": [1, 2.5, None, "ü"]}, ensure_ascii=False)))
"#;

const NODE: &str = r#"
const http = require("http"), { execFileSync } = require("child_process"), fs = require("fs");
const server = http.createServer((ask, answer) => answer.end("honey for " + ask.url)).listen(0, "127.0.0.1", () => {
  http.get({ host: "127.0.0.1", port: server.address().port, path: "/bee" }, answer => {
    let text = "";
    answer.on("data", part => text += part).on("end", () => {
      fs.writeFileSync("/tmp/file", text);
      console.log(answer.statusCode, fs.readFileSync("/tmp/file", "utf8"));
      console.log(execFileSync("/bin/sh", ["-c", "echo from a shell"]).toString().trim());
      server.close();
    });
  });
});
"#;

const SHELL: &str = "\
set -e
cd /tmp; mkdir -p a/b; for i in 1 2 3 4 5; do echo line $i > a/b/$i; done
find a -type f | sort | xargs cat | grep -v 3 | sed 's/line/bee/' | awk '{ n += $2 } END { print n }'
tar cf - a | gzip -9 | gunzip | tar tf - | wc -l | tr -d ' '
(sleep 0.1; echo late) & echo early; wait
x=$(seq 1 3000 | sort -rn | head -n 1); echo $x
dd if=/dev/zero bs=1k count=300 2>/dev/null | wc -c | tr -d ' '
trap 'echo trapped' USR1; kill -USR1 $$
(exit 7) || echo code $?
yes | head -n 2 | md5sum
";

/// Two processes that change one file in turns, with a journal to roll back.
const TURNS: &str = "\
sqlite3 /tmp/turns.db 'create table n(v); insert into n values(0)'
count() {
    i=0; while [ $i -lt 40 ]; do echo 'update n set v = v + 1;'; i=$((i + 1)); done |
        sqlite3 -cmd '.timeout 200000' /tmp/turns.db
}
count & count & wait
sqlite3 /tmp/turns.db 'select v from n; pragma journal_mode; pragma integrity_check'
";

/// Stopping and going on.
const JOBS: &str = "\
cd /tmp; (while :; do echo tick >> ticks; sleep 0.02; done) & p=$!
sleep 0.3; kill -STOP $p; sleep 0.1; a=$(wc -l < ticks); sleep 0.3; [ $a = $(wc -l < ticks) ] && echo still
kill -CONT $p; sleep 0.3; [ $a != $(wc -l < ticks) ] && echo on
kill $p; wait $p; echo $?
";

macro_rules! programs {
    ($($name:ident: $program:expr;)+) => {
        $(mod $name {
            use super::*;

            const PROGRAM: Program = $program;

            #[test]
            fn in_a_virtual_machine() {
                check(&PROGRAM, "kvm");
            }

            #[test]
            fn in_a_confined_process() {
                check(&PROGRAM, "process");
            }
        })+
    };
}

programs! {
    sqlite3: Program {
        image: "deb:sqlite3",
        command: &["sqlite3", "/tmp/bees.db"],
        input: SQL,
        output: "wal\n1990|991517.5|bee999\nok\n[1990]\n",
    };
    python3: Program {
        image: "deb:python3,dash,coreutils",
        command: &["python3", "-"],
        input: PYTHON,
        output: "200 b'honey'\nCompletedProcess(args=['/bin/sh', '-c', 'read a; echo got $a; exit 3'], returncode=3, \
                 stdout=b'got this\\n', stderr=b'')\n1000\n2\n332833500\n(499500,)\n{'a': [1, 2.5, None, 'ü']}\n",
    };
    busybox: Program {
        image: "deb:busybox-static",
        command: &["busybox", "sh"],
        input: SHELL,
        output: "12\n7\nearly\nlate\n3000\n307200\ntrapped\ncode 7\nd7016cc3aea0df2ef4ee59b30db807c1  -\n",
    };
    two_of_sqlite3: Program {
        image: "deb:sqlite3,dash",
        command: &["sh"],
        input: TURNS,
        output: "80\ndelete\nok\n",
    };
    jobs: Program {
        image: "deb:busybox-static",
        command: &["busybox", "sh"],
        input: JOBS,
        output: "still\non\n143\n",
    };
    node: Program {
        image: "deb:nodejs,dash",
        command: &["node", "-"],
        input: NODE,
        output: "200 honey for /bee\nfrom a shell\n",
    };
}

fn check(program: &Program, engine: &str) {
    if !can_run(if engine == "kvm" { &["root", "kvm"] } else { &["root"] }) {
        return;
    }
    let env = TestEnv::with(program.image);
    let room = format!("{}:/tmp", env.scratch().join("room").display());
    std::fs::create_dir_all(env.scratch().join("room")).unwrap();
    let run = ["run", "--rm", "-i", "--as", "unikernel", "-v", &room, program.image, "--"];
    let mut command = env.command(run.iter().chain(program.command));
    let run = env.finish_fed(command.env("SKEP_ENGINE", engine), program.input.as_bytes());
    assert_eq!((run.code, &*run.out), (0, program.output), "{}", run.err);
}

/// A database on a volume, of which one cell has a lock, and which a cell of another boundary wants to change.
fn locks_hold_between(holder: [&str; 2], other: [&str; 2]) {
    if !can_run(&["root", "kvm"]) {
        return;
    }
    const IMAGE: &str = "deb:sqlite3,dash,coreutils";
    let env = TestEnv::with(IMAGE);
    let room = env.scratch().join("room");
    std::fs::create_dir_all(&room).unwrap();
    let volume = format!("{}:/room", room.display());
    let run = |[boundary, engine]: [&str; 2], how: &str, script: &str| {
        let words = ["run", how, "--as", boundary, "-v", &volume, IMAGE, "--", "sh", "-c", script];
        env.finish(env.command(words).env("SKEP_ENGINE", engine))
    };
    run(other, "--rm", "sqlite3 /room/db 'create table n(v)'").ok();
    // Who looks whether it is locked is in the way of the commit for a moment.
    let hold = "sqlite3 -cmd '.timeout 60000' /room/db 'begin immediate' 'insert into n values(1)' \
        '.shell touch /room/held; while [ ! -e /room/go ]; do sleep 0.05; done' 'commit'";
    run(holder, "-d", hold).ok();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !room.join("held").exists() {
        assert!(std::time::Instant::now() < deadline, "nobody took the lock");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let refused = run(other, "--rm", "sqlite3 /room/db 'insert into n values(2)'");
    assert!(refused.code != 0 && refused.err.contains("database is locked"), "{refused:?}");
    let waiting =
        "touch /room/go; sqlite3 -cmd '.timeout 60000' /room/db 'insert into n values(3)' 'select sum(v) from n'";
    assert_eq!(run(other, "--rm", waiting).ok(), "4\n");
}

#[test]
fn a_container_locks_out_a_virtual_machine() {
    locks_hold_between(["container", "kvm"], ["unikernel", "kvm"]);
}

#[test]
fn a_confined_process_locks_out_a_container() {
    locks_hold_between(["unikernel", "process"], ["container", "kvm"]);
}

#[test]
fn a_virtual_machine_locks_out_a_confined_process() {
    locks_hold_between(["unikernel", "kvm"], ["unikernel", "process"]);
}
