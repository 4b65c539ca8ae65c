//! A run: every tunnel in turn, again and again, then the long links.

use std::{
    collections::BTreeMap,
    env, io,
    net::{Ipv4Addr, SocketAddr},
    process,
};

use crate::{
    links::{LINKS, Link, prepare_own_namespace},
    load::{backend::Backend, figures::now},
    peers::{Peer, SERVICE, Side, Tools, Tunnel},
    procs::{Family, machine, machine_cpu_seconds},
    report::Results,
    suite::{Measured, Settings, Suite},
    sys,
};

/// The congestion control of loopback: bbr, the default of some machines, costs a factor of two to three there.
const PINNED: &str = "cubic";

/// Files that the tunnels and the generator have open at most: two for each of the idle streams, and some.
const FILES_SPARE: u64 = 500;

/// A part of a run that can be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Everything on loopback.
    Loopback,
    /// The long links.
    Links,
}

/// What to run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The short form.
    pub quick: bool,
    /// Whether this process is alone in its network namespace, and may change it.
    pub isolated: bool,
    /// The tunnels; all that the form has without.
    pub only: Vec<Peer>,
    /// What is left out.
    pub skip: Vec<Part>,
    /// When it began, for people.
    pub date: String,
    /// What is measured, for people.
    pub commit: String,
}

impl Plan {
    fn settings(&self) -> Settings {
        if self.quick {
            Settings { window_s: 0.5, warmup_s: 0.2, repetitions: 3, idle: vec![1000] }
        } else {
            Settings { window_s: 0.8, warmup_s: 0.3, repetitions: 3, idle: vec![1000, 5000] }
        }
    }

    fn peers(&self) -> Vec<Peer> {
        let peers = Peer::ALL
            .into_iter()
            .filter(|peer| !(self.quick && (*peer == Peer::SshR || peer.only_encrypted())));
        peers.filter(|peer| self.only.is_empty() || self.only.contains(peer)).collect()
    }

    /// How often: in the short form those that are only there for scale come once.
    fn repetitions(&self, peer: Peer, settings: &Settings) -> usize {
        if self.quick && matches!(peer, Peer::Direct | Peer::Socat2) { 1 } else { settings.repetitions }
    }
}

/// A long link takes seconds to fill, and its round trips are few.
fn link_settings() -> Settings {
    Settings { window_s: 6.0, warmup_s: 4.0, repetitions: 1, idle: Vec::new() }
}

/// Carries it out; `say` gets a line of progress now and then.
///
/// # Errors
/// Only what makes all of it worthless: no service, no descriptors. A tunnel that does not come up is in the results as
/// not measured.
pub fn run(plan: &Plan, tools: &Tools, say: &mut dyn FnMut(&str)) -> io::Result<Results> {
    let settings = plan.settings();
    let mut results =
        Results::new(plan.date.clone(), plan.commit.clone(), machine(), plan.quick, settings.clone());
    let files = sys::raise_open_files()?;
    let wanted = settings.idle.iter().max().map_or(0, |idle| 2 * *idle as u64) + FILES_SPARE;
    if files < wanted {
        return Err(io::Error::other(format!(
            "{files} open files are allowed and {wanted} needed; raise ulimit -n"
        )));
    }
    let pinned = if plan.isolated {
        prepare_own_namespace(PINNED)
    } else {
        Err(io::Error::other("not in a network namespace of its own; start it with scripts/bench"))
    };
    if let Err(error) = pinned {
        results
            .not_measured
            .insert("pinned congestion control".into(), format!("{error}; see what was in use"));
    }
    let own = Family::new(vec![process::id()]);
    let (begun, machine_before, own_before) = (now(), machine_cpu_seconds(), own.cpu_seconds());

    for peer in plan.peers() {
        match tools.version(peer) {
            Ok(version) => drop(results.versions.insert(peer.name().into(), version)),
            Err(error) => drop(results.not_measured.insert(peer.name().into(), error.to_string())),
        }
    }
    let there: Vec<Peer> =
        plan.peers().into_iter().filter(|peer| results.versions.contains_key(peer.name())).collect();
    const LEFT_OUT: &str = "left out of this run";
    if plan.skip.contains(&Part::Loopback) {
        results.not_measured.insert("loopback".into(), LEFT_OUT.into());
    } else {
        loopback(plan, &settings, tools, &there, &mut results, say)?;
    }
    if plan.quick || plan.skip.contains(&Part::Links) {
        results.not_measured.insert("long links".into(), LEFT_OUT.into());
    } else {
        links(tools, &there, &mut results, say);
    }

    let foreign = (machine_cpu_seconds() - machine_before) - (own.cpu_seconds() - own_before);
    results.foreign_cores = foreign.max(0.0) / begun.elapsed().as_secs_f64();
    Ok(results)
}

fn loopback(
    plan: &Plan,
    settings: &Settings,
    tools: &Tools,
    peers: &[Peer],
    results: &mut Results,
    say: &mut dyn FnMut(&str),
) -> io::Result<()> {
    let here = Side::loopback();
    let mut backend =
        Backend::start(&env::current_exe()?, &here, SocketAddr::from((Ipv4Addr::LOCALHOST, SERVICE)))?;
    for repetition in 0..settings.repetitions {
        let mut order: Vec<Peer> =
            peers.iter().copied().filter(|peer| repetition < plan.repetitions(*peer, settings)).collect();
        if repetition % 2 == 1 {
            order.reverse();
        }
        for peer in order {
            say(&format!("{peer}, {} of {}", repetition + 1, plan.repetitions(peer, settings)));
            // Memory first and alone: what was measured before would still be in it.
            let parts: &[for<'a> fn(Suite<'a>) -> Measured] = match peer.only_encrypted() {
                true => &[|suite| suite.encrypted()],
                false => &[|suite| suite.memory(), |suite| suite.loopback()],
            };
            for part in parts {
                let measured = Tunnel::start(peer, tools, &here, &here)
                    .map(|tunnel| part(Suite::new(&tunnel, tools, &mut backend, settings, [&here, &here])));
                results.add(peer.name(), measured.unwrap_or_else(did_not_start));
            }
        }
    }
    Ok(())
}

fn links(tools: &Tools, peers: &[Peer], results: &mut Results, say: &mut dyn FnMut(&str)) {
    let settings = link_settings();
    for kind in LINKS {
        for peer in peers.iter().copied().filter(|peer| *peer != Peer::Socat2 && !peer.only_encrypted()) {
            say(&format!("{}: {peer}", kind.title));
            let measured = Link::new(kind).and_then(|link| {
                let (hub, edge) = (link.hub(), link.edge());
                let mut backend = Backend::start(
                    &env::current_exe()?,
                    edge,
                    SocketAddr::from((Ipv4Addr::UNSPECIFIED, SERVICE)),
                )?;
                let tunnel = Tunnel::start(peer, tools, hub, edge)?;
                hub.within(|| Suite::new(&tunnel, tools, &mut backend, &settings, [hub, edge]).long_link())
            });
            results.add_link(kind.name, kind.title, peer.name(), measured.unwrap_or_else(did_not_start));
        }
    }
}

fn did_not_start(error: io::Error) -> Measured {
    Measured { failed: BTreeMap::from([("all".to_owned(), error.to_string())]), ..Measured::default() }
}
