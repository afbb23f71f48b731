//! Messaging backends.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use provider_api::CallError;
use provider_api::messaging::{Delivery, Inbox, Message, Messaging, Receipt, Subscription};
use tokio::time::{Instant, timeout};

/// How long anything may take before a test gives up on it.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long it is watched that something does *not* come.
const MOMENT: Duration = Duration::from_millis(150);
/// The ack-wait that the durable subscriptions of these tests must have.
pub const ACK_WAIT: Duration = Duration::from_secs(1);

/// A message without headers.
pub fn message(subject: &str, body: &str) -> Message {
    Message { subject: subject.to_owned(), body: Bytes::copy_from_slice(body.as_bytes()), reply_to: None, headers: vec![] }
}

/// Runs everything that needs no stream.
pub async fn all_plain(one: Arc<dyn Messaging>, two: Arc<dyn Messaging>) {
    a_queue_group_shares(&*one, &*two).await;
    a_broadcast_reaches_everybody(&*one, &*two).await;
    messages_keep_their_order_and_headers(&*one, &*two).await;
    requests_are_answered_or_fail_as_they_should(&*one, &*two).await;
    what_cannot_be_sent_is_refused(&*one).await;
    a_drained_subscription_hands_out_the_rest(&*one, &*two).await;
}

/// The next message, which must come.
pub async fn take(inbox: &mut dyn Inbox, free: usize) -> Delivery {
    timeout(DEADLINE, inbox.next(free)).await.expect("a message in time").expect("the subscription goes on")
}

/// Body and receipt of the next durable message.
pub async fn take_durable(inbox: &mut dyn Inbox, free: usize) -> (String, Box<dyn Receipt>) {
    let delivery = take(inbox, free).await;
    (text(&delivery.message), delivery.receipt.expect("durable messages have a receipt"))
}

/// Whether nothing comes for a moment.
pub async fn nothing_comes(inbox: &mut dyn Inbox, free: usize) -> bool {
    timeout(MOMENT, inbox.next(free)).await.is_err()
}

fn text(message: &Message) -> String {
    String::from_utf8(message.body.to_vec()).unwrap()
}

/// Each message goes to one member, and both get some.
pub async fn a_queue_group_shares(one: &dyn Messaging, two: &dyn Messaging) {
    let subscription = || Subscription::Core { subject: "core.shared.*".to_owned(), queue: "group".to_owned() };
    let (mut first, mut second) = (one.subscribe(subscription()).await.unwrap(), two.subscribe(subscription()).await.unwrap());
    let mut expected = BTreeSet::new();
    for number in 0..100 {
        one.publish(message("core.shared.x", &number.to_string())).await.unwrap();
        expected.insert(number.to_string());
    }
    let (mut by_first, mut by_second) = (0, 0);
    while !expected.is_empty() {
        let delivery = tokio::select! {
            delivery = take(&mut *first, 1) => { by_first += 1; delivery }
            delivery = take(&mut *second, 1) => { by_second += 1; delivery }
        };
        assert!(delivery.receipt.is_none());
        assert!(expected.remove(&text(&delivery.message)), "each once");
    }
    assert!(by_first > 0 && by_second > 0, "{by_first} and {by_second}");
    assert!(nothing_comes(&mut *first, 1).await && nothing_comes(&mut *second, 1).await);
}

/// Each message goes to all.
pub async fn a_broadcast_reaches_everybody(one: &dyn Messaging, two: &dyn Messaging) {
    let subscription = || Subscription::Broadcast { subject: "broadcast.>".to_owned() };
    let (mut first, mut second) = (one.subscribe(subscription()).await.unwrap(), two.subscribe(subscription()).await.unwrap());
    for number in 0..20 {
        one.publish(message("broadcast.a.b", &number.to_string())).await.unwrap();
    }
    for number in 0..20 {
        for inbox in [&mut first, &mut second] {
            assert_eq!(text(&take(&mut **inbox, 1).await.message), number.to_string());
        }
    }
}

/// In the order of one publisher, unchanged.
pub async fn messages_keep_their_order_and_headers(one: &dyn Messaging, two: &dyn Messaging) {
    let mut inbox = two.subscribe(Subscription::Core { subject: "order".to_owned(), queue: "group".to_owned() }).await.unwrap();
    let headers = vec![("content-type".to_owned(), "application/json".to_owned()), ("source-node".to_owned(), "NEDGE01 é".to_owned())];
    let sent: Vec<Message> = (0..50)
        .map(|number| Message { headers: headers.clone(), reply_to: Some("answers".to_owned()), ..message("order", &number.to_string()) })
        .collect();
    for message in &sent {
        one.publish(message.clone()).await.unwrap();
    }
    for message in sent {
        assert_eq!(take(&mut *inbox, 1).await.message, message);
    }
}

/// An answer, nobody there, and somebody who does not answer.
pub async fn requests_are_answered_or_fail_as_they_should(one: &dyn Messaging, two: &dyn Messaging) {
    let asked = Instant::now();
    let nobody = one.request(message("nobody.there", ""), DEADLINE).await;
    assert!(matches!(&nobody, Err(CallError::NoResponder(subject)) if subject == "nobody.there"), "{nobody:?}");
    assert!(asked.elapsed() < DEADLINE / 2, "that is known at once");

    let mut inbox = two.subscribe(Subscription::Core { subject: "ask".to_owned(), queue: "group".to_owned() }).await.unwrap();
    let answering = async {
        let question = take(&mut *inbox, 1).await.message;
        two.publish(message(&question.reply_to.unwrap(), &format!("re: {}", String::from_utf8_lossy(&question.body)))).await.unwrap();
    };
    let (answer, ()) = tokio::join!(one.request(message("ask", "you"), DEADLINE), answering);
    assert_eq!(text(&answer.unwrap()), "re: you");

    let silent = one.request(message("ask", "silence"), MOMENT).await;
    assert!(matches!(silent, Err(CallError::TimedOut(150))), "{silent:?}");
}

/// Too large, a hostile subject, a header that would smuggle in another.
pub async fn what_cannot_be_sent_is_refused(one: &dyn Messaging) {
    let limit = one.max_payload();
    let large = |size: usize| Message { body: Bytes::from(vec![b'x'; size]), ..message("large", "") };
    one.publish(large(limit)).await.expect("exactly the limit");
    let headers = vec![("a".to_owned(), "b".to_owned())];
    for too_large in [large(limit + 1), Message { headers, ..large(limit) }] {
        let refused = one.publish(too_large.clone()).await;
        assert!(matches!(refused, Err(CallError::TooLarge { what: "message", .. })), "{refused:?}");
        let refused = one.request(too_large, DEADLINE).await;
        assert!(matches!(refused, Err(CallError::TooLarge { what: "message", .. })), "{refused:?}");
    }
    for hostile in ["", "a b", "a\r\nPUB b 0\r\n", "a.*", ">"] {
        assert!(matches!(one.publish(message(hostile, "")).await, Err(CallError::Invalid(_))), "{hostile:?}");
        assert!(matches!(one.request(message(hostile, ""), DEADLINE).await, Err(CallError::Invalid(_))), "{hostile:?}");
    }
    let smuggler = Message { headers: vec![("a".to_owned(), "b\r\nNats-Rollup: all".to_owned())], ..message("a", "") };
    assert!(matches!(one.publish(smuggler).await, Err(CallError::Invalid(_))));
}

/// What was here before the end comes out, what comes after does not.
pub async fn a_drained_subscription_hands_out_the_rest(one: &dyn Messaging, two: &dyn Messaging) {
    let mut inbox = one.subscribe(Subscription::Core { subject: "drained".to_owned(), queue: "group".to_owned() }).await.unwrap();
    for number in 0..10 {
        one.publish(message("drained", &number.to_string())).await.unwrap();
    }
    assert_eq!(text(&take(&mut *inbox, 1).await.message), "0");
    inbox.drain().await;
    for number in 1..10 {
        assert_eq!(text(&take(&mut *inbox, 1).await.message), number.to_string());
    }
    assert!(timeout(DEADLINE, inbox.next(1)).await.unwrap().is_none());
    let gone = two.request(message("drained", ""), DEADLINE).await;
    assert!(matches!(gone, Err(CallError::NoResponder(_))), "{gone:?}");
}

/// A durable subscription for these tests: `subject` is captured by its stream and taken by its consumer, which is empty
/// and has an ack-wait of [`ACK_WAIT`].
#[derive(Debug, Clone)]
pub struct Durable {
    /// Subject to publish on.
    pub subject: String,
    /// The subscription.
    pub subscription: Subscription,
}

impl Durable {
    async fn publish(&self, messaging: &dyn Messaging, numbers: std::ops::Range<usize>) {
        for number in numbers {
            messaging.publish(message(&self.subject, &number.to_string())).await.unwrap();
        }
    }

    async fn subscribe(&self, messaging: &dyn Messaging) -> Box<dyn Inbox> {
        messaging.subscribe(self.subscription.clone()).await.unwrap()
    }
}

/// Acknowledged: gone. Not acknowledged: again, counted. Terminated: gone. Retried: again, after the pause.
pub async fn durable_messages_are_settled(messaging: &dyn Messaging, durable: &Durable) {
    let mut inbox = durable.subscribe(messaging).await;
    durable.publish(messaging, 0..4).await;
    let mut receipts = Vec::new();
    for number in 0..4 {
        let (body, receipt) = take_durable(&mut *inbox, 4 - number).await;
        assert_eq!((body, receipt.delivered()), (number.to_string(), 1));
        receipts.push(receipt);
    }
    assert!(receipts.windows(2).all(|pair| pair[0].sequence() < pair[1].sequence()), "positions ascend");
    let dropped_at = receipts[1].sequence();
    receipts[0].ack().await.unwrap();
    receipts[2].terminate("no use\r\n+ACK").await.unwrap();
    let asked = Instant::now();
    receipts[3].retry_after(Duration::from_millis(300)).await.unwrap();
    receipts.remove(1);

    let (body, retried) = take_durable(&mut *inbox, 1).await;
    assert_eq!((body.as_str(), retried.delivered()), ("3", 2));
    assert!(asked.elapsed() >= Duration::from_millis(290), "not before the pause: {:?}", asked.elapsed());
    retried.ack().await.unwrap();
    let (body, again) = take_durable(&mut *inbox, 1).await;
    assert_eq!((body.as_str(), again.delivered(), again.sequence()), ("1", 2, dropped_at));
    again.ack().await.unwrap();
    assert!(timeout(ACK_WAIT * 2, inbox.next(4)).await.is_err(), "all is settled");
}

/// What one inbox has no room for, another gets at once.
pub async fn nothing_is_pulled_that_cannot_start(messaging: &dyn Messaging, durable: &Durable) {
    let (mut first, mut second) = (durable.subscribe(messaging).await, durable.subscribe(messaging).await);
    durable.publish(messaging, 0..5).await;
    let (body, held) = take_durable(&mut *first, 1).await;
    assert_eq!(body, "0");
    for number in 1..5 {
        let (body, receipt) = take_durable(&mut *second, 1).await;
        assert_eq!((body, receipt.delivered()), (number.to_string(), 1), "the first inbox holds one message only");
        receipt.ack().await.unwrap();
    }
    held.ack().await.unwrap();

    // The same when the first inbox was waiting with much room while nothing was there.
    assert!(nothing_comes(&mut *first, 10).await);
    durable.publish(messaging, 5..10).await;
    let (_, held) = take_durable(&mut *first, 1).await;
    for _ in 0..4 {
        let (_, receipt) = take_durable(&mut *second, 4).await;
        assert_eq!(receipt.delivered(), 1);
        receipt.ack().await.unwrap();
    }
    held.ack().await.unwrap();
    assert!(timeout(ACK_WAIT * 2, second.next(1)).await.is_err(), "nothing was lost in the first inbox");
}

/// A wait that is given up loses nothing and duplicates nothing; the order stays.
pub async fn a_wait_may_be_given_up(messaging: &dyn Messaging, durable: &Durable) {
    let mut inbox = durable.subscribe(messaging).await;
    let mut patience = Duration::from_micros(1);
    for round in 0..6 {
        durable.publish(messaging, round * 20..(round + 1) * 20).await;
        let mut number = round * 20;
        while number < (round + 1) * 20 {
            match timeout(patience, inbox.next(3)).await {
                Err(_) => patience = (patience * 2).min(Duration::from_millis(20)),
                Ok(delivery) => {
                    patience = Duration::from_micros(50);
                    let delivery = delivery.unwrap();
                    let receipt = delivery.receipt.unwrap();
                    assert_eq!((text(&delivery.message), receipt.delivered()), (number.to_string(), 1));
                    receipt.ack().await.unwrap();
                    number += 1;
                }
            }
        }
    }
}

/// A message that is worked on for longer than the ack-wait is not delivered again as long as that is said.
pub async fn work_in_progress_is_not_delivered_again(messaging: &dyn Messaging, durable: &Durable) {
    let (mut first, mut second) = (durable.subscribe(messaging).await, durable.subscribe(messaging).await);
    durable.publish(messaging, 0..1).await;
    let (_, receipt) = take_durable(&mut *first, 1).await;
    let end = Instant::now() + ACK_WAIT * 2;
    while Instant::now() < end {
        receipt.in_progress().await.unwrap();
        assert!(timeout(ACK_WAIT / 3, second.next(1)).await.is_err(), "not delivered again");
    }
    receipt.ack().await.unwrap();
    assert!(timeout(ACK_WAIT * 3 / 2, second.next(1)).await.is_err());
}

/// A drained durable subscription asks for nothing more; what it did not hand out goes to others.
pub async fn a_drained_durable_subscription_ends(messaging: &dyn Messaging, durable: &Durable) {
    let mut inbox = durable.subscribe(messaging).await;
    durable.publish(messaging, 0..6).await;
    let (_, receipt) = take_durable(&mut *inbox, 3).await;
    receipt.ack().await.unwrap();
    inbox.drain().await;
    let mut rest = 0;
    while let Some(delivery) = timeout(DEADLINE, inbox.next(3)).await.unwrap() {
        delivery.receipt.unwrap().ack().await.unwrap();
        rest += 1;
    }
    assert!(rest <= 2, "only what was here: {rest}");
    let mut other = durable.subscribe(messaging).await;
    for number in rest + 1..6 {
        let (body, receipt) = take_durable(&mut *other, 1).await;
        assert_eq!(body, number.to_string());
        receipt.ack().await.unwrap();
    }
}
