//! The reference MCP server of the trials: `fixture --listen 127.0.0.1:PORT` or `fixture --stdio`.

use anyhow::{Context as _, Result, bail};
use bartizan_model::{Entropy, SystemClock};
use bartizan_trials::fixture::{self, Fixture};
use std::{
    fs::File,
    io::{Read as _, Write as _, stdout},
    sync::{Arc, Mutex, PoisonError},
};
use tokio::net::TcpListener;

/// The kernel's random source.
struct Kernel(Mutex<File>);

impl Entropy for Kernel {
    #[expect(clippy::expect_used, reason = "predictable identifiers are worse than no fixture")]
    fn fill(&self, out: &mut [u8]) {
        let mut source = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        source.read_exact(out).expect("the kernel's random source answers");
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let source = File::open("/dev/urandom").context("cannot open the kernel's random source")?;
    let fixture = Fixture::new(Arc::new(SystemClock), Arc::new(Kernel(Mutex::new(source))));
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["--stdio"] => fixture::stdio::serve(fixture, tokio::io::stdin(), tokio::io::stdout()).await?,
        ["--listen", address] => {
            let listener =
                TcpListener::bind(address).await.with_context(|| format!("cannot listen on `{address}`"))?;
            writeln!(stdout(), "http://{}/mcp", listener.local_addr()?)?;
            fixture::http::serve(fixture, listener).await?;
        }
        _ => bail!("usage: fixture --listen 127.0.0.1:PORT | fixture --stdio"),
    }
    Ok(())
}
