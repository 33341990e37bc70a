//! The story's CMS: `story-cms --listen 127.0.0.1:8801 --token story`.

use std::net::SocketAddr;

use clap::Parser;
use flowline_story::cms::Cms;
use tokio::net::TcpListener;

/// A CMS to try Flowline against; keeps what it gets in memory.
#[derive(Parser)]
struct Options {
    /// Where it listens; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8801")]
    listen: SocketAddr,
    /// The token that contacts are sent with.
    #[arg(long, default_value = "story")]
    token: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let listener = TcpListener::bind(options.listen).await?;
    println!("story-cms: http://{}", listener.local_addr()?);
    axum::serve(listener, Cms::new(&options.token).routes()).await?;
    Ok(())
}
