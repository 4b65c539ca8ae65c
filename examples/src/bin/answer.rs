//! A JSON-RPC service without a server: a function of this program that others call through an explorer.
//!
//! ```text
//! reachback explorer --listen 127.0.0.1:9002        # in one terminal
//! cargo run -p reachback-examples --bin answer      # in another
//! reachback call embedded/math add '[1, 2, 39]' --explorer 127.0.0.1:9002
//! reachback call embedded/math primes '{"below": 20}' --explorer 127.0.0.1:9002
//! ```
//! `primes` streams: each one is printed when it is found, and in the end how many there were. Whoever stops listening
//! stops the search. Another explorer is given as the first argument.

use std::{error::Error, sync::Arc};

use reachback_link::RealNet;
use reachback_node::{Invocation, Node, NodeConfig, RpcError, Service};
use serde_json::{Value, json};

/// One request. What it returns is the answer; when nobody waits for that any more, it is dropped at its next `await`.
async fn math(invocation: Invocation) -> Result<Value, RpcError> {
    match invocation.method() {
        "add" => {
            let numbers: Vec<i64> = invocation.params()?;
            let sum = numbers.into_iter().try_fold(0_i64, i64::checked_add);
            sum.map(Value::from).ok_or_else(|| RpcError::new(1, "the sum is larger than 64 bits"))
        }
        "primes" => {
            #[derive(serde::Deserialize)]
            struct Params {
                below: u32,
            }
            let Params { below } = invocation.params()?;
            let mut found = Vec::new();
            for n in 2..below {
                if found.iter().all(|prime: &u32| n % prime != 0) {
                    found.push(n);
                    invocation.item(&n).await?;
                }
                tokio::task::yield_now().await;
            }
            Ok(json!({ "found": found.len() }))
        }
        _ => Err(RpcError::method_not_found(&invocation, &["add", "primes"])),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let explorer = std::env::args().nth(1).unwrap_or("127.0.0.1:9002".into());
    let config = NodeConfig::new("embedded".parse()?, vec![explorer.parse()?])?
        .with_service(Service::calls("math", math)?)?;
    let mut node = Node::start(config, Arc::new(RealNet))?;
    Err(node.failed().await.into())
}
