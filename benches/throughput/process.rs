//! Child processes, which end with their owner.

use std::{
    io::{BufRead as _, BufReader, Read, Write as _},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

/// The longest that a child may stay silent while it is waited for.
const PATIENCE: Duration = Duration::from_secs(180);

/// Which of a child's outputs is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    Stdout,
    Stderr,
}

/// A running child.
#[derive(Debug)]
pub struct Process {
    name: &'static str,
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Process {
    /// Starts a child, one of whose outputs will be read; the other goes where ours goes, or
    /// nowhere when it is standard output.
    pub fn start(name: &'static str, mut command: Command, output: Output) -> Self {
        command.stdin(Stdio::piped());
        match output {
            Output::Stdout => command.stdout(Stdio::piped()),
            Output::Stderr => command.stdout(Stdio::null()).stderr(Stdio::piped()),
        };
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{name} can't be started: {error}"));
        let stdin = child.stdin.take().expect("standard input is piped");
        let lines = match output {
            Output::Stdout => lines(child.stdout.take().expect("standard output is piped")),
            Output::Stderr => lines(child.stderr.take().expect("standard error is piped")),
        };
        Self {
            name,
            child,
            stdin,
            lines,
        }
    }

    /// This program again, with other arguments.
    pub fn start_role(name: &'static str, arguments: &[&str]) -> Self {
        let program = std::env::current_exe().expect("a program knows where it is");
        let mut command = Command::new(program);
        command.args(arguments);
        Self::start(name, command, Output::Stdout)
    }

    /// The process id, as `/proc` spells it.
    pub fn id(&self) -> String {
        self.child.id().to_string()
    }

    /// Whether the process has ended.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Says one word to it.
    pub fn say(&mut self, word: &str) {
        writeln!(self.stdin, "{word}")
            .unwrap_or_else(|error| panic!("{} does not listen: {error}", self.name));
    }

    /// Its next line.
    pub fn line(&self) -> String {
        self.lines
            .recv_timeout(PATIENCE)
            .unwrap_or_else(|_| panic!("{} said nothing more", self.name))
    }

    /// Its next line that begins with `word`, without that word.
    pub fn line_after(&self, word: &str) -> String {
        loop {
            let line = self.line();
            if let Some(rest) = line.strip_prefix(word) {
                return rest.trim().to_owned();
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads lines on a thread, so that a child never waits for us to.
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
