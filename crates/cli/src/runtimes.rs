//! The threads of an explorer: runtimes of one thread each, beside the one that the command itself runs on.
//!
//! One runtime of many threads would move tasks between cores, and a mux pays for that with more than half of its
//! speed again. Here a connection lives on one thread, and the threads share nothing but the registry.

use std::{io, thread};

use tokio::{
    runtime::{Builder, Handle, Runtime},
    sync::oneshot,
};

use crate::limits;

/// Further runtimes; dropping them ends their threads, after what runs there has been told to end.
pub(crate) struct Runtimes {
    handles: Vec<Handle>,
    threads: Vec<(oneshot::Sender<()>, thread::JoinHandle<()>)>,
}

impl Runtimes {
    /// Starts so many threads.
    ///
    /// # Errors
    /// When the system gives no thread or no descriptor for one.
    pub(crate) fn start(count: usize) -> io::Result<Self> {
        let mut runtimes = Self { handles: Vec::new(), threads: Vec::new() };
        for number in 0..count {
            let runtime = one()?;
            runtimes.handles.push(runtime.handle().clone());
            let (stop, stopped) = oneshot::channel::<()>();
            let thread =
                thread::Builder::new().name(format!("connections-{}", number + 2)).spawn(move || {
                    // An error is the drop of the other end, which says the same.
                    let _ = runtime.block_on(stopped);
                    runtime.shutdown_background();
                })?;
            runtimes.threads.push((stop, thread));
        }
        Ok(runtimes)
    }

    pub(crate) fn handles(&self) -> Vec<Handle> {
        self.handles.clone()
    }
}

/// A runtime of one thread.
///
/// # Errors
/// When the system gives no descriptor for it.
pub(crate) fn one() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().event_interval(limits::EVENT_INTERVAL).build()
}

/// As many threads as there are cores, up to what one explorer makes use of.
pub(crate) fn usual_threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from).min(limits::THREADS_MAX)
}

impl Drop for Runtimes {
    fn drop(&mut self) {
        for (stop, thread) in self.threads.drain(..) {
            drop(stop);
            if thread.join().is_err() {
                tracing::error!("a thread of the explorer panicked");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_runs_what_it_is_given_on_a_thread_of_its_own_and_all_end() {
        let runtimes = Runtimes::start(2).unwrap();
        let threads: Vec<_> = runtimes
            .handles()
            .iter()
            .map(|handle| {
                let (tell, told) = oneshot::channel();
                handle.spawn(async move { tell.send(thread::current().id()) });
                told.blocking_recv().unwrap()
            })
            .collect();
        assert_ne!(threads[0], threads[1]);
        assert!(!threads.contains(&thread::current().id()));
        let (tell, told) = oneshot::channel::<()>();
        runtimes.handles()[0].spawn(async move {
            std::future::pending::<()>().await;
            drop(tell);
        });
        drop(runtimes);
        assert!(told.blocking_recv().is_err(), "what still ran there was dropped");
    }
}
