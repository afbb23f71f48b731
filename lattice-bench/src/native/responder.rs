//! Answers each message with its own payload: the least that a NATS service can do.

use futures::StreamExt as _;

use super::{Error, ready};

/// What to answer.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Server to connect to
    #[arg(long)]
    nats_url: String,
    /// Subjects to answer on, each subscribed to by a task of its own
    #[arg(long, required = true)]
    subject: Vec<String>,
}

pub(super) async fn run(arguments: Arguments) -> Result<(), Error> {
    let client = async_nats::connect(&arguments.nats_url).await?;
    let mut tasks = tokio::task::JoinSet::new();
    for subject in arguments.subject {
        let subscriber = client.queue_subscribe(subject, "native".to_owned()).await?;
        tasks.spawn(answer(client.clone(), subscriber));
    }
    client.flush().await?;
    ready(0)?;
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

async fn answer(client: async_nats::Client, mut subscriber: async_nats::Subscriber) -> Result<(), async_nats::PublishError> {
    while let Some(message) = subscriber.next().await {
        if let Some(reply) = message.reply {
            client.publish(reply, message.payload).await?;
        }
    }
    Ok(())
}
