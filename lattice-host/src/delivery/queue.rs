//! Messages that wait for a free instance: bounded in number and in bytes.

use std::collections::VecDeque;

use provider_api::messaging::Message;

/// Messages that wait at most.
const MAX_MESSAGES: usize = 1024;
/// Bytes that wait at most.
const MAX_BYTES: usize = 8 * 1024 * 1024;
/// What a message costs besides its body.
const OVERHEAD: usize = 256;

/// First in, first out.
#[derive(Debug, Default)]
pub(super) struct Queue {
    messages: VecDeque<Message>,
    bytes: usize,
}

impl Queue {
    /// Takes `message` if there is room.
    #[must_use]
    pub(super) fn push(&mut self, message: Message) -> bool {
        let bytes = self.bytes.saturating_add(cost(&message));
        if self.messages.len() >= MAX_MESSAGES || bytes > MAX_BYTES {
            return false;
        }
        self.bytes = bytes;
        self.messages.push_back(message);
        true
    }

    pub(super) fn pop(&mut self) -> Option<Message> {
        let message = self.messages.pop_front()?;
        self.bytes = self.bytes.saturating_sub(cost(&message));
        Some(message)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}

fn cost(message: &Message) -> usize {
    message.body.len().saturating_add(message.subject.len()).saturating_add(OVERHEAD)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bytes: usize) -> Message {
        Message { subject: "a".into(), body: vec![0; bytes].into(), reply_to: None, headers: Vec::new() }
    }

    #[test]
    fn bounded_in_number_and_bytes() {
        let mut queue = Queue::default();
        assert_eq!((0..2000).filter(|_| queue.push(message(1))).count(), MAX_MESSAGES);
        while queue.pop().is_some() {}
        assert_eq!((0..20).filter(|_| queue.push(message(1024 * 1024))).count(), 7);
        assert!(queue.pop().is_some() && queue.push(message(1024 * 1024)));
        while queue.pop().is_some() {}
        assert_eq!(queue.bytes, 0);
    }
}
