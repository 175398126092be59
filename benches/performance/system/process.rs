//! Child processes that end with their owner.

use std::{
    io::{BufRead as _, BufReader, Read, Write as _},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::Duration,
};

use tokio::time::Instant;

/// The time to wait for a line of a child when no other limit is given.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(180);

/// The first word of a child that cannot continue; the reason follows.
pub const FAILED: &str = "failed ";

/// The reason why a child did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChildError {
    /// It did not answer within the limit.
    #[error("did not finish in {} s", .0.as_secs())]
    TimedOut(Duration),
    /// It gave up, or has ended.
    #[error("{0}")]
    Failed(String),
}

/// A running child.
#[derive(Debug)]
pub struct Process {
    name: &'static str,
    child: Child,
    /// Closed first when the child is to end.
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    /// The process that does the work: the child, or the process that the child supervises.
    id: String,
}

impl Process {
    /// Starts this program in another role; its standard output is read.
    pub fn start_role<S: AsRef<str>>(name: &'static str, arguments: &[S]) -> Self {
        let mut command = this_program(arguments.iter().map(AsRef::as_ref));
        command.stdout(Stdio::piped());
        Self::start(name, command)
    }

    /// The same at the lowest priority, so that it takes only what others leave of the CPU.
    pub fn start_role_at_low_priority<S: AsRef<str>>(name: &'static str, arguments: &[S]) -> Self {
        let program = std::env::current_exe().expect("a program knows where it is");
        let mut command = Command::new("nice");
        command.args(["-n", "19"]).arg(program);
        command
            .args(arguments.iter().map(AsRef::as_ref))
            .stdout(Stdio::piped());
        Self::start(name, command)
    }

    /// Starts another program under a supervisor; its standard error is read.
    pub fn start_supervised<S: AsRef<str>>(
        name: &'static str,
        program: &str,
        arguments: &[S],
    ) -> Self {
        let arguments = arguments.iter().map(AsRef::as_ref);
        let mut command = this_program(["supervise", "--", program].into_iter().chain(arguments));
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = Self::start(name, command);
        process.id = process.line_after("supervising ");
        process
    }

    fn start(name: &'static str, mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name} can't be started: {error}"));
        let stdin = child.stdin.take();
        let lines = match (child.stdout.take(), child.stderr.take()) {
            (Some(stdout), _) => lines(stdout),
            (None, Some(stderr)) => lines(stderr),
            (None, None) => unreachable!("one of them is piped"),
        };
        Self {
            name,
            id: child.id().to_string(),
            child,
            stdin,
            lines,
        }
    }

    /// The process id in the form of `/proc`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns true if the process has ended.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends one command. A child that has ended is noticed when its answer is awaited.
    pub fn send(&mut self, word: &str) {
        if let Some(stdin) = &mut self.stdin {
            let _ = writeln!(stdin, "{word}");
        }
    }

    /// Its next line.
    pub fn line(&self) -> String {
        self.line_within(DEFAULT_TIMEOUT)
            .unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    /// Its next line that begins with `word`, without that word.
    pub fn line_after(&self, word: &str) -> String {
        self.answer(word, DEFAULT_TIMEOUT)
            .unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    /// Its next line that begins with `word`, without that word, if it comes in time.
    pub fn answer(&self, word: &str, limit: Duration) -> Result<String, ChildError> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.line_within(left).map_err(|error| match error {
                ChildError::TimedOut(_) => ChildError::TimedOut(limit),
                failed @ ChildError::Failed(_) => failed,
            })?;
            if let Some(rest) = line.strip_prefix(word) {
                return Ok(rest.trim().to_owned());
            }
            if let Some(reason) = line.strip_prefix(FAILED) {
                return Err(ChildError::Failed(reason.to_owned()));
            }
        }
    }

    fn line_within(&self, limit: Duration) -> Result<String, ChildError> {
        self.lines.recv_timeout(limit).map_err(|error| match error {
            RecvTimeoutError::Timeout => ChildError::TimedOut(limit),
            RecvTimeoutError::Disconnected => {
                ChildError::Failed(format!("{} ended by itself", self.name))
            }
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Our own children end by themselves then. A supervisor must not be killed before it has
        // ended its child.
        self.stdin = None;
        let is_supervisor = self.id != self.child.id().to_string();
        if !is_supervisor {
            // It may have exited already.
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

fn this_program<'a>(arguments: impl Iterator<Item = &'a str>) -> Command {
    let program = std::env::current_exe().expect("a program knows where it is");
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

/// Reads lines on a thread, so that a child never blocks on a full pipe.
fn lines(source: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(source).lines().map_while(Result::ok) {
            // Lines that nobody waits for are dropped.
            let _ = sender.send(line);
        }
    });
    receiver
}
