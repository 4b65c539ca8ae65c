//! The other side: a program that opens a stream to a service, wherever that is.
//!
//! ```text
//! echo hello | cargo run -p reachback-examples --bin open -- 127.0.0.1:9002 embedded/shout
//! ```

use std::{error::Error, sync::Arc};

use reachback_client::{Client, ClientOptions, Random};
use reachback_link::RealNet;
use tokio::io::{AsyncWriteExt, copy, split, stdin, stdout};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(explorer), Some(target)) = (args.next(), args.next()) else {
        return Err("usage: open EXPLORER NODE/SERVICE".into());
    };
    let options = ClientOptions::new("opener".parse()?, Random::system())?;
    let client = Client::connect(Arc::new(RealNet), &explorer.parse()?, options).await?;
    let (mut from_service, mut to_service) = split(client.open(target.parse()?).await?.into_io());
    let sending = async {
        copy(&mut stdin(), &mut to_service).await?;
        // Our half is complete; the answer may still be on its way.
        to_service.shutdown().await
    };
    let mut output = stdout();
    tokio::try_join!(sending, copy(&mut from_service, &mut output))?;
    output.flush().await?;
    client.close().await;
    Ok(())
}
