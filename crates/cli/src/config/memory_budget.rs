//! `memory_budget`: what peers may make this process hold.

use std::sync::Arc;

use reachback_link::MemoryBudget;
use serde::Deserialize;

use crate::{
    config::{
        file::Checked,
        origin::{Origin, Origins},
        size::Size,
    },
    exit::Failure,
    limits, memory,
};

/// The table `[limits]` of both files.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct LimitsTable {
    memory_budget: Option<Checked<Size>>,
}

/// The budget that was asked for, or a quarter of the memory there is.
pub(super) fn resolve(
    typed: Option<Size>,
    file: LimitsTable,
    origins: &mut Origins,
) -> Result<Arc<MemoryBudget>, Failure> {
    let sources = [(Origin::Typed, typed), (Origin::File, file.memory_budget.map(|size| size.0))];
    let size = match origins.pick("memory_budget", sources, ToString::to_string) {
        Some(size) => size,
        None => {
            let size = memory::usual_budget();
            origins.note("memory_budget", size, Origin::Default);
            size
        }
    };
    let least = Size(limits::MEMORY_BUDGET_MIN);
    if size < least {
        return Err(Failure::config(format_args!(
            "memory_budget {size}: below {least} a single busy connection would be cut off; give {least} or more"
        )));
    }
    Ok(Arc::new(MemoryBudget::new(size.0)))
}
