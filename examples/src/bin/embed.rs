//! A service without a port: a function of this program that others reach through an explorer.
//!
//! ```text
//! reachback explorer --listen 127.0.0.1:9002        # in one terminal
//! cargo run -p reachback-examples --bin embed       # in another
//! reachback connect embedded/shout --explorer 127.0.0.1:9002
//! ```
//! Type lines; they come back in capitals. Another explorer is given as the first argument.

use std::{error::Error, sync::Arc};

use reachback_link::RealNet;
use reachback_node::{Node, NodeConfig, Service, Visit};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, split};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let explorer = std::env::args().nth(1).unwrap_or("127.0.0.1:9002".into());
    let shout = Service::handler("shout", |visit: Visit| async move {
        let (from_visitor, mut to_visitor) = split(visit);
        let mut lines = BufReader::new(from_visitor).lines();
        while let Some(line) = lines.next_line().await? {
            to_visitor.write_all(format!("{}\n", line.to_uppercase()).as_bytes()).await?;
            to_visitor.flush().await?;
        }
        Ok(())
    })?;
    let config = NodeConfig::new("embedded".parse()?, vec![explorer.parse()?])?.with_service(shout)?;
    let mut node = Node::start(config, Arc::new(RealNet))?;
    Err(node.failed().await.into())
}
