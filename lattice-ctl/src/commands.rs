//! The verbs, one file each; a file's doc comment is the verb's help text.

mod belief;
mod call;
mod claim;
mod completions;
mod config;
mod ctx;
mod doctor;
mod down;
mod events;
mod failover;
mod get;
mod keys;
mod kv;
mod link;
mod logs;
mod needs;
mod node;
mod policy;
mod publish;
mod scale;
mod schedule;
pub(crate) mod signing;
mod start;
mod stop;
mod stream;
mod subscribe;
mod supervise;
mod up;
mod version;
mod wait;

use clap::Subcommand;

use crate::error::Outcome;
use crate::output::Output;

/// What can be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Up(Box<up::Up>),
    Down(down::Down),
    Doctor(doctor::Doctor),
    #[command(subcommand)]
    Get(get::Get),
    #[command(subcommand)]
    Start(start::Start),
    #[command(subcommand)]
    Stop(stop::Stop),
    Scale(Box<scale::Scale>),
    #[command(subcommand)]
    Schedule(schedule::Schedule),
    #[command(subcommand)]
    Node(node::Node),
    Failover(Box<failover::Failover>),
    Wait(wait::Wait),
    #[command(subcommand)]
    Link(link::Link),
    #[command(subcommand)]
    Config(config::Config),
    Call(call::Call),
    Pub(publish::Pub),
    Sub(subscribe::Sub),
    #[command(subcommand)]
    Kv(kv::Kv),
    Logs(logs::Logs),
    Events(events::Events),
    #[command(subcommand)]
    Stream(stream::StreamVerb),
    #[command(subcommand, alias = "key")]
    Keys(keys::Keys),
    #[command(subcommand, alias = "claims")]
    Claim(claim::Claim),
    #[command(subcommand, alias = "policies")]
    Policy(policy::Policy),
    #[command(subcommand)]
    Ctx(ctx::Ctx),
    Completions(completions::Completions),
    Version(version::Version),
    #[command(hide = true)]
    Supervise(supervise::Supervise),
}

impl Command {
    /// Does it.
    pub(crate) async fn run(self, output: &Output) -> Outcome {
        match self {
            Self::Up(verb) => Box::pin(verb.run(output)).await,
            Self::Down(verb) => verb.run(output).await,
            Self::Doctor(verb) => verb.run(output).await,
            Self::Get(verb) => verb.run(output).await,
            Self::Start(verb) => verb.run(output).await,
            Self::Stop(verb) => verb.run(output).await,
            Self::Scale(verb) => verb.run(output).await,
            Self::Schedule(verb) => verb.run(output).await,
            Self::Node(verb) => verb.run(output).await,
            Self::Failover(verb) => Box::pin(verb.run(output)).await,
            Self::Wait(verb) => verb.run(output).await,
            Self::Link(verb) => Box::pin(verb.run(output)).await,
            Self::Config(verb) => verb.run(output).await,
            Self::Call(verb) => verb.run(output).await,
            Self::Pub(verb) => verb.run(output).await,
            Self::Sub(verb) => verb.run(output).await,
            Self::Kv(verb) => verb.run(output).await,
            Self::Logs(verb) => verb.run(output).await,
            Self::Events(verb) => verb.run(output).await,
            Self::Stream(verb) => verb.run(output).await,
            Self::Keys(verb) => verb.run(output),
            Self::Claim(verb) => verb.run(output),
            Self::Policy(verb) => verb.run(output).await,
            Self::Ctx(verb) => verb.run(output),
            Self::Completions(verb) => verb.run(output),
            Self::Version(verb) => verb.run(output),
            Self::Supervise(verb) => Box::pin(verb.run(output)).await,
        }
    }
}
