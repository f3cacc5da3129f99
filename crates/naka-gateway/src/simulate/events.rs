//! What the gateway has to say on the way: the lines of its log, with the time of the scenario.

use std::{
    fmt::{self, Write as _},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tracing::{
    Event as Told, Level, Subscriber,
    field::{Field, Visit},
    subscriber::DefaultGuard,
};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt as _},
    registry::Registry,
};

use super::since;

/// Lines that are kept; more are counted.
pub const MOST: usize = 1000;

/// One line.
#[derive(Clone, Debug)]
pub struct Event {
    /// When.
    pub at: Duration,
    /// How grave it is.
    pub level: Level,
    /// What.
    pub text: String,
}

/// All of them, in their order.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// The first of them.
    pub events: Vec<Event>,
    /// And so many more.
    pub more: u64,
}

/// Whoever listens.
#[derive(Clone, Debug)]
pub(super) struct Events {
    began: Instant,
    log: Arc<Mutex<Log>>,
}

impl Events {
    pub(super) fn new(began: Instant) -> Self {
        Self { began, log: Arc::default() }
    }

    /// As long as this is there, on this thread.
    pub(super) fn listen(&self) -> DefaultGuard {
        tracing::subscriber::set_default(Registry::default().with(self.clone()))
    }

    pub(super) fn take(&self) -> Log {
        std::mem::take(&mut *self.log.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<S: Subscriber> Layer<S> for Events {
    fn on_event(&self, told: &Told<'_>, _: Context<'_, S>) {
        let level = *told.metadata().level();
        if level > Level::INFO {
            return;
        }
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.events.len() == MOST {
            log.more += 1;
            return;
        }
        let mut text = Text::default();
        told.record(&mut text);
        let Text { message, fields } = text;
        log.events.push(Event { at: since(self.began), level, text: message + &fields });
    }
}

/// The message first, and all else behind it.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Text takes everything.
        let _ = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            write!(self.fields, " {}={value:?}", field.name())
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}
