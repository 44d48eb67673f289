//! The client: what is measured, and how.

use std::fs;
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::json;
use tokio::task::JoinSet;

use crate::Failure;
use crate::connect::{Connector, Way};
use crate::figures::Figures;

/// Events whose first byte is timed, each on a connection of its own.
const EVENTS: usize = 20;
/// Time before the measuring begins, on the same connections.
const WARM: Duration = Duration::from_millis(300);

#[derive(clap::Args)]
pub struct Options {
    #[command(flatten)]
    way: Way,
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Whether the origin got the credential: exit code 0 or 1.
    Auth,
    /// Requests on kept connections.
    Keep(Load),
    /// A new connection for each request.
    New(Load),
    /// The time from a request to the first byte of an event stream.
    Sse,
    /// One body.
    Big {
        /// Its bytes.
        #[arg(long)]
        bytes: u64,
    },
}

#[derive(Clone, clap::Args)]
struct Load {
    /// What is requested.
    #[arg(long)]
    path: String,
    /// Clients at once.
    #[arg(long)]
    clients: usize,
    /// How long.
    #[arg(long)]
    seconds: f64,
}

pub async fn measure(options: Options) -> Result<(), Failure> {
    let connector = Connector::new(options.way)?;
    let mut figures = match options.what {
        What::Auth => {
            whole(connector.connect().await?.get("/auth").await?.into_body()).await?;
            json!({})
        }
        What::Keep(load) => json!(loaded(&load, |load, end| keep(connector.clone(), load, end)).await?),
        What::New(load) => json!(loaded(&load, |load, end| anew(connector.clone(), load, end)).await?),
        What::Sse => json!(events(&connector).await?),
        What::Big { bytes } => json!({ "bytes_per_second": big(&connector, bytes).await? }),
    };
    figures["processor"] = json!(processor()?);
    println!("{figures}");
    Ok(())
}

/// Clock ticks of processor time that this process has used (proc(5), stat).
fn processor() -> Result<u64, Failure> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    // The fields after the program's name, which may have spaces in it.
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
    fields.skip(11).take(2).map(|ticks| Ok(ticks.parse::<u64>()?)).sum()
}

/// Runs `client` as often as the load says, at once, and gathers its times.
async fn loaded<F>(load: &Load, client: impl Fn(Load, Instant) -> F) -> Result<Figures, Failure>
where
    F: Future<Output = Result<Vec<(Instant, Duration)>, Failure>> + Send + 'static,
{
    let begin = Instant::now() + WARM;
    let length = Duration::from_secs_f64(load.seconds);
    let mut clients = JoinSet::new();
    for _ in 0..load.clients {
        clients.spawn(client(load.clone(), begin + length));
    }
    let (mut times, mut all) = (Vec::new(), 0);
    while let Some(ended) = clients.join_next().await {
        let counted = |(ended, _): &(Instant, Duration)| (begin..begin + length).contains(ended);
        let ended = ended??;
        all += ended.len();
        times.extend(ended.into_iter().filter(counted).map(|(_, time)| time));
    }
    if times.is_empty() {
        return Err("no request ended in time".into());
    }
    Ok(Figures::of(times, length, all))
}

async fn keep(connector: Connector, load: Load, end: Instant) -> Result<Vec<(Instant, Duration)>, Failure> {
    let mut connection = connector.connect().await?;
    let mut times = Vec::new();
    while Instant::now() < end {
        let begun = Instant::now();
        whole(connection.get(&load.path).await?.into_body()).await?;
        times.push((Instant::now(), begun.elapsed()));
    }
    Ok(times)
}

async fn anew(connector: Connector, load: Load, end: Instant) -> Result<Vec<(Instant, Duration)>, Failure> {
    let mut times = Vec::new();
    while Instant::now() < end {
        let begun = Instant::now();
        let mut connection = connector.connect().await?;
        whole(connection.get(&load.path).await?.into_body()).await?;
        times.push((Instant::now(), begun.elapsed()));
    }
    Ok(times)
}

async fn events(connector: &Connector) -> Result<Figures, Failure> {
    let mut times = Vec::new();
    for _ in 0..EVENTS {
        let mut connection = connector.connect().await?;
        whole(connection.get("/cl").await?.into_body()).await?;
        let begun = Instant::now();
        let mut body = connection.get("/sse").await?.into_body();
        let first = body.frame().await.ok_or("the event stream ended")??;
        times.push(begun.elapsed());
        if !first.data_ref().is_some_and(|data| data.starts_with(b"data: ")) {
            return Err("the event stream does not begin with an event".into());
        }
    }
    let (whole, all) = (times.iter().sum(), times.len());
    Ok(Figures::of(times, whole, all))
}

async fn big(connector: &Connector, bytes: u64) -> Result<f64, Failure> {
    let mut connection = connector.connect().await?;
    whole(connection.get("/cl").await?.into_body()).await?;
    let begun = Instant::now();
    let came = whole(connection.get(&format!("/big?bytes={bytes}")).await?.into_body()).await?;
    if came != bytes {
        return Err(format!("{came} bytes came instead of {bytes}").into());
    }
    Ok(bytes as f64 / begun.elapsed().as_secs_f64())
}

/// Reads a body to its end; its bytes.
async fn whole(mut body: Incoming) -> Result<u64, Failure> {
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        bytes += frame?.data_ref().map_or(0, |data| data.len() as u64);
    }
    Ok(bytes)
}
