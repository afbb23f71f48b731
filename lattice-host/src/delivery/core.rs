//! At most once: `core` and `broadcast` links.

use provider_api::messaging::{Inbox, Message};

use super::queue::Queue;
use super::work::Work;
use super::{Source, Target};
use crate::metrics::Operation;
use crate::runtime::ReplyRoute;
use crate::supervision::rested;

/// How far ahead an inbox may read: its messages go into a queue of our own, which counts what it drops.
const READ_AHEAD: usize = 256;

/// Hands messages to `target` until the source is stopped, then finishes what is here.
pub(crate) async fn run(mut source: Source, target: Target, replies: bool) {
    while let Some(inbox) = source.open().await {
        Inlet { inbox, source: &source, target: &target, replies, waiting: Queue::default(), running: Work::default() }.run().await;
        if !source.stop.is_cancelled() {
            source.pause().await;
        }
    }
}

struct Inlet<'a> {
    inbox: Box<dyn Inbox>,
    source: &'a Source,
    target: &'a Target,
    replies: bool,
    waiting: Queue,
    running: Work<()>,
}

impl Inlet<'_> {
    async fn run(mut self) {
        let (mut open, mut draining) = (true, false);
        while open || !self.waiting.is_empty() || !self.running.is_empty() {
            let current = self.target.current();
            // Not more than this at once from here: the order of a single resident instance is kept.
            let rest = self.target.rests_until();
            let may_start = rest.is_none() && !self.waiting.is_empty() && self.running.len() < current.instances;
            tokio::select! {
                () = self.source.stop.cancelled(), if !draining => {
                    draining = true;
                    self.inbox.drain().await;
                    self.source.status.closed();
                }
                Some(_) = self.running.next() => {}
                () = rested(rest), if rest.is_some() => {}
                () = current.actor.ready(), if may_start => self.start(),
                delivery = self.inbox.next(READ_AHEAD), if open => match delivery {
                    Some(delivery) => self.take(delivery.message),
                    None => open = false,
                },
            }
        }
    }

    fn take(&mut self, message: Message) {
        if self.source.may_see(&message.subject) && !self.waiting.push(message) {
            self.target.metrics.dropped.inc();
        }
    }

    fn start(&mut self) {
        let Some(message) = self.waiting.pop() else { return };
        let route = match &message.reply_to {
            Some(_) if self.replies => ReplyRoute::Publish(self.source.backend.clone()),
            Some(_) | None => ReplyRoute::None,
        };
        let target = self.target.clone();
        let work = async move {
            let subject = message.subject.clone();
            if let Err(error) = target.handle(Operation::HandleMessage, message, route, None).await {
                tracing::debug!(actor = %target.id, subject, %error, "message failed");
            }
        };
        self.running.start(work, self.waiting.is_empty(), self.target.pace());
    }
}
