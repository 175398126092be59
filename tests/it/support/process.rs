//! Child processes that cannot outlive the test.
//!
//! Drop kills them, but a test that is itself killed (by a time limit or ctrl-c) runs no Drop. On
//! Linux the kernel can kill them instead, when the *thread* that started the child ends. So one
//! thread, which lives as long as the test's process, starts every child.

use std::ffi::OsStr;
use std::io::{self, BufRead as _, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, mpsc};
use std::time::Duration;

use tokio::time::Instant;

use super::tools;

/// Asks the kernel to kill this process with its parent, then executes the given program. The
/// parent may have died before the kernel was asked, hence the check afterwards.
const LAUNCHER: &str = "
import ctypes, os, signal, sys
try:
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
except (AttributeError, OSError):
    pass  # not Linux: Drop alone has to do
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])
";

type Request = (Command, mpsc::SyncSender<io::Result<Child>>);

/// The thread that starts the children, and lives as long as the process.
static SPAWNER: LazyLock<Mutex<mpsc::Sender<Request>>> = LazyLock::new(|| {
    let (requests, receiver) = mpsc::channel::<Request>();
    std::thread::Builder::new()
        .name("spawner".to_owned())
        .spawn(move || {
            for (mut command, reply) in receiver {
                // A test that gave up waiting needs no reply.
                let _ = reply.send(command.spawn());
            }
        })
        .expect("a thread can be started");
    Mutex::new(requests)
});

/// A command line for `program` whose process dies with this one.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let python = tools::repository().join(".venv/bin/python");
    let python = if python.exists() {
        python
    } else {
        tools::on_path("python3").expect("python3 is on the PATH; `make test` says how to get it")
    };
    let mut command = Command::new(python);
    command
        .args(["-I", "-c", LAUNCHER])
        .arg(std::process::id().to_string())
        .arg(program);
    command
}

/// Starts a command made by [`command`].
pub fn spawn(command: Command) -> io::Result<Child> {
    let (reply, replies) = mpsc::sync_channel(1);
    SPAWNER
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .send((command, reply))
        .expect("the spawner lives as long as the process");
    replies.recv().expect("the spawner answers every request")
}

/// A child process whose output a test reads while it runs.
pub struct ChildProcess {
    name: String,
    child: Child,
    stdout: Arc<Mutex<String>>,
    stderr: Arc<Mutex<String>>,
}

impl ChildProcess {
    /// Starts a program; failure messages call it `name`.
    pub fn start<S: AsRef<OsStr>>(
        name: &str,
        program: impl AsRef<OsStr>,
        arguments: impl IntoIterator<Item = S>,
    ) -> Self {
        let mut command = command(program);
        command
            .args(arguments)
            .current_dir(tools::repository())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child =
            spawn(command).unwrap_or_else(|error| panic!("{name} did not start: {error}"));
        let stdout = collect(child.stdout.take().expect("standard output is piped"));
        let stderr = collect(child.stderr.take().expect("standard error is piped"));
        Self {
            name: name.to_owned(),
            child,
            stdout,
            stderr,
        }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its resident memory, in bytes.
    pub fn resident(&self) -> u64 {
        self.proc_status("VmRSS:") << 10
    }

    /// The peak of its resident memory, in bytes.
    pub fn peak_resident(&self) -> u64 {
        self.proc_status("VmHWM:") << 10
    }

    /// A number of `/proc/<pid>/status`: kilobytes, or a count.
    pub fn proc_status(&self, name: &str) -> u64 {
        let path = format!("/proc/{}/status", self.id());
        let status = std::fs::read_to_string(path).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next());
        number.and_then(|it| it.parse().ok()).expect("a number")
    }

    /// The user and system time that it has used.
    pub fn cpu_time(&self) -> Duration {
        let path = format!("/proc/{}/stat", self.id());
        let stat = std::fs::read_to_string(path).expect("it runs");
        // The name in parentheses may contain spaces; user and system time are 12 and 13 fields after it.
        let (_, fields) = stat.rsplit_once(") ").expect("a name in parentheses");
        let times = fields.split(' ').skip(11).take(2);
        let ticks: u64 = times
            .map(|ticks| ticks.parse::<u64>().expect("a number of ticks"))
            .sum();
        // Linux counts a hundred ticks a second on every platform on which these tests run.
        Duration::from_millis(ticks * 10)
    }

    /// Sends a signal: "TERM", "INT" or "KILL".
    pub fn signal(&self, signal: &str) {
        let kill = format!("kill -{signal} {}", self.id());
        let sent = Command::new("sh").args(["-c", &kill]).status();
        assert!(
            sent.is_ok_and(|status| status.success()),
            "{} could not be sent {signal}{self}",
            self.name
        );
    }

    /// Everything written to standard output so far.
    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    /// Everything written to standard error so far.
    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// Waits until standard output satisfies `condition`; panics when `limit` passes or the process
    /// exits first.
    pub async fn wait_for_output(
        &mut self,
        what: &str,
        limit: Duration,
        condition: impl Fn(&str) -> bool,
    ) {
        let deadline = Instant::now() + limit;
        loop {
            // Checked before the output, so that the last lines count.
            let exit_status = self.exit_status();
            if condition(&self.stdout()) {
                return;
            }
            assert!(
                exit_status.is_none(),
                "{} ended before {what}{self}",
                self.name
            );
            assert!(
                Instant::now() < deadline,
                "{} gave no {what} within {limit:?}{self}",
                self.name
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until the process exits; panics when `limit` passes first.
    pub async fn wait_for_exit(&mut self, limit: Duration) -> ExitStatus {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.exit_status() {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "{} did not end within {limit:?}{self}",
                self.name
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The exit status, once all output has been read.
    fn exit_status(&mut self) -> Option<ExitStatus> {
        let readers_are_done =
            Arc::strong_count(&self.stdout) == 1 && Arc::strong_count(&self.stderr) == 1;
        let status = self.child.try_wait().expect("a child can be asked about");
        status.filter(|_| readers_are_done)
    }
}

impl std::fmt::Display for ChildProcess {
    /// The output, for failure messages.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "\n--- its standard output\n{}\n--- its standard error\n{}\n---",
            self.stdout(),
            self.stderr()
        )
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        // It may have exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads lines into a shared text until the end, then drops the reader's reference.
fn collect(source: impl Read + Send + 'static) -> Arc<Mutex<String>> {
    let text = Arc::new(Mutex::new(String::new()));
    let share = Arc::clone(&text);
    std::thread::spawn(move || {
        let mut source = BufReader::new(source);
        let mut line = Vec::new();
        while source
            .read_until(b'\n', &mut line)
            .is_ok_and(|read| read > 0)
        {
            share
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push_str(&String::from_utf8_lossy(&line));
            line.clear();
        }
    });
    text
}

fn read(text: &Mutex<String>) -> String {
    text.lock().unwrap_or_else(PoisonError::into_inner).clone()
}
