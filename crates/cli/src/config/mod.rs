//! From what people write to what the libraries take: flags over variables over the file, checked on the way.
//!
//! The shape of a file and the shape of a checked configuration are different types, so a value that was not checked
//! can't reach run time.

pub(crate) mod duration;
pub(crate) mod explorer;
pub(crate) mod file;
pub(crate) mod group;
pub(crate) mod mode;
pub(crate) mod node;
pub(crate) mod origin;
pub(crate) mod port_spec;
pub(crate) mod proxy;

use reachback_wire::NodeId;

use crate::{
    config::origin::{Origin, Origins},
    exit::Failure,
    paths,
};

/// The id of this process: the flag's, the file's, or the host's name where that is a valid id.
fn own_id(
    typed: Option<NodeId>,
    file: Option<file::Checked<NodeId>>,
    example: &str,
    origins: &mut Origins,
) -> Result<NodeId, Failure> {
    let sources = [(Origin::Typed, typed), (Origin::File, file.map(|id| id.0))];
    if let Some(id) = origins.pick("id", sources, ToString::to_string) {
        return Ok(id);
    }
    let host: NodeId = paths::host_name().parse().map_err(|error| {
        Failure::config(format_args!(
            "the host name can't serve as id ({error}); give one, for example {example}"
        ))
    })?;
    origins.note("id", &host, Origin::Default);
    Ok(host)
}
