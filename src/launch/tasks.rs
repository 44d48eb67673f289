//! The processes and threads below a process, in this process's view of /proc.

use std::fs;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

/// How often the tasks of a run without a cgroup are counted.
const COUNT_EVERY: Duration = Duration::from_secs(1);

/// Whether a run has ever had as many tasks as it may. RLIMIT_NPROC has no
/// counter (setrlimit(2)), so this is as exact as it looks often.
#[derive(Debug)]
pub struct TaskCount {
    top: Pid,
    /// The limit; none when there is nothing to look for.
    most: Option<u64>,
    looked: Instant,
    reached: bool,
}

impl TaskCount {
    /// For what is below this process, with itself.
    pub fn new(top: Pid, most: Option<u64>) -> Self {
        Self { top, most, looked: Instant::now(), reached: false }
    }

    /// Counts, when it is time to.
    pub fn look(&mut self) {
        let Some(most) = self.most.filter(|_| !self.reached && self.looked.elapsed() >= COUNT_EVERY) else {
            return;
        };
        self.looked = Instant::now();
        let mut count = 0;
        each_below(self.top, |_, threads| {
            count += threads.len() as u64;
            count < most
        });
        self.reached = count >= most;
    }

    /// Until when there is nothing to look for.
    pub fn patience(&self) -> Duration {
        if self.most.is_none() || self.reached { Duration::MAX } else { COUNT_EVERY }
    }

    /// What the init saw at the agent's end.
    pub fn note(&mut self, full: bool) {
        self.reached |= full && self.most.is_some();
    }

    /// Whether the limit was seen to be reached.
    pub fn is_reached(&self) -> bool {
        self.reached
    }
}

/// The children of a process's first thread (proc_pid_task_children(5)).
pub fn children_of(process: Pid) -> Vec<Pid> {
    children_of_thread(process, process)
}

fn children_of_thread(process: Pid, thread: Pid) -> Vec<Pid> {
    let text = fs::read_to_string(format!("/proc/{process}/task/{thread}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok().map(Pid::from_raw)).collect()
}

/// Calls `see` with each process from `top` down, and its threads, until it says no.
pub fn each_below(top: Pid, mut see: impl FnMut(Pid, &[Pid]) -> bool) {
    let mut waiting = vec![top];
    while let Some(process) = waiting.pop() {
        let threads = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
        let threads: Vec<Pid> =
            threads.filter_map(|entry| entry.file_name().to_str()?.parse().ok().map(Pid::from_raw)).collect();
        if !see(process, &threads) {
            return;
        }
        waiting.extend(threads.iter().flat_map(|thread| children_of_thread(process, *thread)));
    }
}
