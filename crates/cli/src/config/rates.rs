//! `[rate_limit]`: how many opens and calls one caller may make.

use std::str::FromStr;

use reachback_explorer::{RateLimit, RatePer};
use serde::Deserialize;

use crate::{
    config::{
        file::Checked,
        origin::{Origin, Origins},
    },
    exit::Failure,
};

/// The table, with the keys and defaults of programs that had it before.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RateTable {
    enabled: bool,
    preset: Option<String>,
    per: Option<Checked<Per>>,
    bucket_size: Option<u32>,
    refill_rate: Option<f64>,
}

impl Default for RateTable {
    /// Whoever writes the table wants it.
    fn default() -> Self {
        Self { enabled: true, preset: None, per: None, bucket_size: None, refill_rate: None }
    }
}

/// For whom a bucket is: `caller` or `service`.
#[derive(Debug)]
struct Per(RatePer);

impl FromStr for Per {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "caller" => Ok(Self(RatePer::Caller)),
            "service" => Ok(Self(RatePer::Service)),
            _ => Err(format!("\"{text}\": a limit is per \"caller\" or per \"service\"")),
        }
    }
}

/// The limit that holds; none without a table, or where it says `enabled = false`.
///
/// # Errors
/// An unknown preset, or numbers that no limit can have.
pub(super) fn resolve(table: Option<RateTable>, origins: &mut Origins) -> Result<Option<RateLimit>, Failure> {
    let Some(table) = table else { return Ok(None) };
    let mut limit = match &table.preset {
        Some(name) => RateLimit::preset(name).map_err(Failure::config)?,
        None => RateLimit::default(),
    };
    limit.bucket_size = table.bucket_size.unwrap_or(limit.bucket_size);
    limit.refill_rate = table.refill_rate.unwrap_or(limit.refill_rate);
    limit.per = table.per.map_or(limit.per, |per| per.0.0);
    limit.check().map_err(Failure::config)?;
    if !table.enabled {
        origins.note("rate_limit", "off", Origin::File);
        return Ok(None);
    }
    let each = match limit.per {
        RatePer::Caller => "caller",
        RatePer::Service => "service",
    };
    let said = format!("{} at once, {} a second for each {each}", limit.bucket_size, limit.refill_rate);
    origins.note("rate_limit", said, Origin::File);
    Ok(Some(limit))
}
