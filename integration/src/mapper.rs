//! A program that maps files (`mapper`), driven line by line; its death is an answer like others.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::outcome::OrFail;

/// The running program. Dropping it kills it, with whatever it had mapped.
pub struct Mapper {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Mapper {
    /// Starts it; paths in its commands are relative to `directory`.
    ///
    /// # Panics
    /// When it can't.
    pub fn start(program: &Path, directory: &Path) -> Self {
        let mut command = Command::new(program);
        command.current_dir(directory).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().or_fail(program.display());
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().or_fail("no output"));
        Self { child, input, output }
    }

    /// Gives it a command. Its answer, or `died SIGNAL`.
    ///
    /// # Panics
    /// When it did not understand.
    pub fn ask(&mut self, command: &str) -> String {
        self.tell(command);
        self.answer(command)
    }

    /// Gives it a command and doesn't wait for the answer, which [`answer`](Self::answer) takes.
    pub fn tell(&mut self, command: &str) {
        if let Some(input) = &mut self.input {
            // It may be dead: the answer says so.
            let _ = writeln!(input, "{command}");
        }
    }

    /// The answer to the next command.
    ///
    /// # Panics
    /// When it did not understand.
    pub fn answer(&mut self, command: &str) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).or_fail(command);
        if line.is_empty() {
            let status = self.child.wait().or_fail(command);
            return format!("died {}", status.signal().unwrap_or_default());
        }
        assert!(!line.contains("wrong use"), "{command}: {line}");
        line.trim_end().to_owned()
    }

    /// As [`ask`](Self::ask), of what must succeed; the value that it gives.
    ///
    /// # Panics
    /// When it doesn't succeed.
    #[track_caller]
    pub fn run(&mut self, command: &str) -> String {
        let answer = self.ask(command);
        let value = answer.strip_prefix("ok").or_fail(format_args!("{command}: {answer}"));
        value.trim_start().to_owned()
    }

    /// Ends it in the middle of whatever it does (`kill -9`): the system unmaps and closes.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.input = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Mapper {
    fn drop(&mut self) {
        self.end();
    }
}
