//! A database server as a child process that ends with this process, even if this one is killed.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tempfile::TempDir;
use tokio::process::{Child, Command};

/// The number of log lines shown when a server does not start.
const LOG_LINES_SHOWN: usize = 20;

/// A running server and its folder. Dropping it kills the server and deletes the folder.
#[derive(Debug)]
pub(super) struct Process {
    // Declared first, so that it is dropped before the folder that it writes to.
    child: Child,
    folder: TempDir,
    port: u16,
}

impl Process {
    /// Starts `program` in a new folder with a port that was free just before. `arguments` receives the
    /// folder and the port. The output of the server goes to a log in the folder.
    pub fn start(
        program: &Path,
        arguments: impl FnOnce(&Path, u16) -> Vec<OsString>,
    ) -> io::Result<Process> {
        let folder = tempfile::Builder::new().prefix("weir-dev-").tempdir()?;
        let port = free_port()?;
        let log = File::create(log_path(&folder))?;
        let mut command = command_killed_with_parent(program);
        command
            .args(arguments(folder.path(), port))
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true);
        // In a process group of its own: Ctrl-C must reach only Weir, which needs the database to end its
        // watches in order.
        #[cfg(unix)]
        command.process_group(0);
        let child = command.spawn()?;
        Ok(Process {
            child,
            folder,
            port,
        })
    }

    /// Returns the port that the server listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns how the server exited, or `None` while it runs.
    pub fn ended(&mut self) -> Option<String> {
        match self.child.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => Some(format!("it exited with {status}")),
            Err(error) => Some(format!("its status can't be read: {error}")),
        }
    }

    /// Returns the last lines of the server's log.
    pub fn log_tail(&self) -> String {
        let bytes = std::fs::read(log_path(&self.folder)).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(LOG_LINES_SHOWN);
        lines[from..].join("\n")
    }

    /// Kills the server and waits until it has exited. It needs no clean stop, as its folder is deleted.
    pub async fn stop(mut self) {
        // Fails if it has exited by itself, which is fine.
        let _ = self.child.kill().await;
    }
}

fn log_path(folder: &TempDir) -> PathBuf {
    folder.path().join("server.log")
}

fn free_port() -> io::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}

/// Returns a command for `program` whose process the kernel kills when this process is killed. That needs
/// util-linux's setpriv; without it, `kill -9` of this process leaves the server running.
///
/// The kernel kills the child when the *thread* that started it ends. That thread runs `main` or is a worker
/// of the runtime; both live until the process ends.
fn command_killed_with_parent(program: &Path) -> Command {
    const OPTIONS: [&str; 2] = ["--pdeathsig", "KILL"];
    if let Some(setpriv) = find_on_path("setpriv") {
        let works = std::process::Command::new(&setpriv)
            .args(OPTIONS)
            .arg("true")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        if works {
            let mut command = Command::new(setpriv);
            command.args(OPTIONS).arg("--").arg(program);
            return command;
        }
    }
    Command::new(program)
}

/// Finds a program by name in the folders of PATH.
pub(super) fn find_on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| is_program(file))
}

/// Returns whether `file` is an executable file.
pub(super) fn is_program(file: &Path) -> bool {
    let Ok(metadata) = file.metadata() else {
        return false;
    };
    #[cfg(unix)]
    let executable = {
        use std::os::unix::fs::PermissionsExt as _;
        metadata.permissions().mode() & 0o111 != 0
    };
    #[cfg(not(unix))]
    let executable = true;
    metadata.is_file() && executable
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn shell(script: &str) -> Process {
        let script = script.to_owned();
        let shell = find_on_path("sh").expect("every Unix has a shell");
        Process::start(&shell, move |_, port| {
            vec!["-c".into(), script.into(), port.to_string().into()]
        })
        .unwrap()
    }

    async fn wait_for_end(process: &mut Process) -> String {
        tokio::time::timeout(std::time::Duration::from_secs(30), async {
            loop {
                if let Some(how) = process.ended() {
                    return how;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap()
    }

    #[tokio::test]
    async fn the_exit_status_and_the_log_of_an_exited_server_are_available() {
        let mut process = shell("echo one; echo two >&2; exit 3");
        assert_eq!(
            wait_for_end(&mut process).await,
            "it exited with exit status: 3"
        );
        assert_eq!(process.log_tail(), "one\ntwo");
    }

    #[tokio::test]
    async fn only_the_end_of_a_long_log_is_shown() {
        let mut process = shell("i=0; while [ $i -lt 100 ]; do i=$((i+1)); echo $i; done");
        wait_for_end(&mut process).await;
        assert_eq!(process.log_tail().lines().next(), Some("81"));
        assert_eq!(process.log_tail().lines().count(), LOG_LINES_SHOWN);
    }

    #[tokio::test]
    async fn a_stopped_server_and_its_folder_are_gone() {
        let mut process = shell("exec sleep 1000");
        assert_eq!(process.ended(), None);
        let folder = process.folder.path().to_owned();
        let id = process.child.id().unwrap();
        process.stop().await;
        assert!(!folder.exists());
        assert!(!Path::new(&format!("/proc/{id}")).exists());
    }

    #[test]
    fn programs_are_found_on_the_path() {
        assert!(find_on_path("sh").is_some());
        assert_eq!(find_on_path("weir-has-no-such-program"), None);
        assert!(!is_program(Path::new("/")));
    }
}
