//! What stands in for the standard library in models, and how a model is run.
//!
//! - **Atomics** are loom's, with a fence in front of what is `SeqCst`: loom takes such accesses for acquire and release,
//!   and puts fences in one order as it should. This is how compilers do it on machines without such accesses.
//! - **A mutex** is loom's.
//! - **`Notify`** is tokio's own. Its steps are not taken apart: each is one step with a read-modify-write of one word of
//!   loom's, which is the order that tokio promises (all of its own are such writes of one word).
//! - **Tokio's `oneshot`** is tokio's own, too, and what is sent through it here carries nothing.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
};

pub(crate) use loom::sync::{Mutex, MutexGuard};
use tokio::sync::futures::OwnedNotified;

pub(crate) mod atomic {
    pub(crate) use std::sync::atomic::Ordering;

    use loom::sync::atomic::fence;

    fn in_order(order: Ordering) -> Ordering {
        if order == Ordering::SeqCst {
            fence(Ordering::SeqCst);
        }
        order
    }

    macro_rules! atomic {
        ($name:ident, $number:ty) => {
            #[derive(Debug, Default)]
            pub(crate) struct $name(loom::sync::atomic::$name);

            #[allow(dead_code, reason = "one is asked for what the other is not")]
            impl $name {
                #[track_caller]
                pub(crate) fn new(number: $number) -> Self {
                    Self(loom::sync::atomic::$name::new(number))
                }

                #[track_caller]
                pub(crate) fn load(&self, order: Ordering) -> $number {
                    self.0.load(in_order(order))
                }

                #[track_caller]
                pub(crate) fn store(&self, number: $number, order: Ordering) {
                    self.0.store(number, in_order(order));
                }

                #[track_caller]
                pub(crate) fn swap(&self, number: $number, order: Ordering) -> $number {
                    self.0.swap(number, in_order(order))
                }

                #[track_caller]
                pub(crate) fn fetch_add(&self, number: $number, order: Ordering) -> $number {
                    self.0.fetch_add(number, in_order(order))
                }

                #[track_caller]
                pub(crate) fn fetch_sub(&self, number: $number, order: Ordering) -> $number {
                    self.0.fetch_sub(number, in_order(order))
                }

                #[track_caller]
                pub(crate) fn fetch_and(&self, number: $number, order: Ordering) -> $number {
                    self.0.fetch_and(number, in_order(order))
                }

                #[track_caller]
                pub(crate) fn fetch_or(&self, number: $number, order: Ordering) -> $number {
                    self.0.fetch_or(number, in_order(order))
                }

                #[track_caller]
                pub(crate) fn fetch_max(&self, number: $number, order: Ordering) -> $number {
                    self.0.fetch_max(number, in_order(order))
                }

                #[track_caller]
                pub(crate) fn compare_exchange(
                    &self,
                    old: $number,
                    new: $number,
                    order: Ordering,
                    failure: Ordering,
                ) -> Result<$number, $number> {
                    self.0.compare_exchange(old, new, in_order(order), failure)
                }

                /// Never fails without a reason.
                #[track_caller]
                pub(crate) fn compare_exchange_weak(
                    &self,
                    old: $number,
                    new: $number,
                    order: Ordering,
                    failure: Ordering,
                ) -> Result<$number, $number> {
                    self.compare_exchange(old, new, order, failure)
                }

                #[track_caller]
                pub(crate) fn fetch_update(
                    &self,
                    order: Ordering,
                    fetch: Ordering,
                    next: impl FnMut($number) -> Option<$number>,
                ) -> Result<$number, $number> {
                    self.0.fetch_update(in_order(order), fetch, next)
                }
            }
        };
    }

    atomic!(AtomicU32, u32);
    atomic!(AtomicU64, u64);
}

/// Tokio's, and a word that has its order.
#[derive(Debug, Default)]
pub(crate) struct Notify {
    real: Arc<tokio::sync::Notify>,
    order: loom::sync::atomic::AtomicU32,
}

impl Notify {
    pub(crate) fn notify_one(&self) {
        self.step();
        self.real.notify_one();
    }

    pub(crate) fn notified_owned(self: Arc<Self>) -> Notified {
        let real = Box::pin(Arc::clone(&self.real).notified_owned());
        Notified { notify: self, real: Some(real) }
    }

    fn step(&self) {
        self.order.fetch_add(1, atomic::Ordering::AcqRel);
    }
}

pub(crate) struct Notified {
    notify: Arc<Notify>,
    real: Option<Pin<Box<OwnedNotified>>>,
}

impl Notified {
    pub(crate) fn enable(mut self: Pin<&mut Self>) -> bool {
        self.notify.step();
        self.real.as_mut().is_some_and(|real| real.as_mut().enable())
    }
}

impl Future for Notified {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.notify.step();
        self.real.as_mut().map_or(Poll::Ready(()), |real| real.as_mut().poll(cx))
    }
}

impl Drop for Notified {
    fn drop(&mut self) {
        self.notify.step();
        self.real = None; // What it was told goes on to the next who waits.
    }
}

/// Runs a model in all orders in which the threads of a machine could take its steps, but for those with more than so
/// many changes of thread that nothing forces. Timers can be made, and none of them ever ends.
pub(crate) fn model(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime can be built");
    let _entered = runtime.enter();
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(preemptions);
    builder.check(model);
}

/// Waits until a future is ready. Loom's own counts its wakers in steps of the model, and tokio clones them under a lock.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let signal = Arc::new(Signal::default());
    let waker = Waker::from(Arc::clone(&signal));
    let (mut cx, mut future) = (Context::from_waker(&waker), pin!(future));
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return output;
        }
        signal.0.wait();
    }
}

/// Polls a future once.
pub(crate) fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[derive(Default)]
struct Signal(loom::sync::Notify);

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.0.notify();
    }
}
