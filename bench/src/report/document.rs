//! `docs/performance.md`, written from results and from the sentences that people wrote about missed bars.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write},
    fs, io,
    path::Path,
};

use super::{
    bars::{self, Verdict},
    results::Results,
    tables,
};
use crate::{peers::Peer, suite::Congestion};

/// Other programs that keep more cores than this busy make figures worthless, and the page says so.
const QUIET: f64 = 0.15;

/// Sentences about missed bars, by the bar's key.
pub type Explanations = BTreeMap<String, String>;

/// Reads `bench/explanations.toml`.
///
/// # Errors
/// When it is missing, is not a table of sentences, or names a bar that there is not.
pub fn explanations(path: &Path) -> io::Result<Explanations> {
    let text = fs::read_to_string(path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    let said: Explanations =
        toml::from_str(&text).map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
    let known: BTreeSet<String> = bars::all().iter().map(bars::Bar::key).collect();
    if let Some(unknown) = said.keys().find(|key| !known.contains(*key)) {
        return Err(io::Error::other(format!("{}: there is no bar \"{unknown}\"", path.display())));
    }
    Ok(said)
}

/// The keys of missed first bars about which nobody has written a sentence.
pub fn unexplained(results: &Results, said: &Explanations) -> Vec<String> {
    let missed =
        bars::all().into_iter().map(|bar| bar.judge(results)).filter(|verdict| verdict.first == Some(false));
    missed.map(|verdict| verdict.key).filter(|key| !said.contains_key(key)).collect()
}

/// The page.
pub fn page(results: &Results, said: &Explanations) -> String {
    let mut page = String::new();
    // Writing to a string can't fail.
    let _never = write_page(&mut page, results, said);
    page
}

fn write_page(page: &mut String, results: &Results, said: &Explanations) -> fmt::Result {
    writeln!(page, "# Performance\n")?;
    writeln!(
        page,
        "Written by `scripts/bench`; do not edit. Sentences about missed bars are in `bench/explanations.toml`.\n"
    )?;
    head(page, results)?;
    writeln!(page, "\n## Bars\n")?;
    writeln!(
        page,
        "Reachback beside the others of the same run, medians. The first bar must be met or explained; the goal is what is \
         wanted.\n"
    )?;
    write_bars(page, results, said)?;
    writeln!(page, "\n## Loopback\n")?;
    writeln!(
        page,
        "`up` = visitor to service, `down` = service to visitor; median (least..most) of {} repetitions in alternating \
         order, windows of {} s after {} s of load.",
        results.settings.repetitions, results.settings.window_s, results.settings.warmup_s
    )?;
    for layout in tables::LOOPBACK {
        section(page, layout.title, &tables::figures(&results.loopback, layout.columns))?;
    }
    section(
        page,
        "Ratio to rathole: bulk",
        &tables::ratios(&results.loopback, tables::LOOPBACK[0].columns, "rathole"),
    )?;
    section(
        page,
        "Ratio to rathole: CPU per GB",
        &tables::ratios(&results.loopback, tables::LOOPBACK[1].columns, "rathole"),
    )?;
    let latency =
        ["lat.p50_us", "lat.p99_us", "load8.up.p50_us", "load8.down.p50_us", "conn1.p50_us", "conn50.per_s"];
    section(
        page,
        "Ratio to rathole: latency and connections",
        &tables::ratios(&results.loopback, &latency, "rathole"),
    )?;
    writeln!(page, "\n## Calls")?;
    for layout in tables::CALLS {
        section(page, layout.title, &tables::figures(&results.loopback, layout.columns))?;
    }
    if !results.links.is_empty() {
        writeln!(page, "\n## Long links\n")?;
        writeln!(
            page,
            "A userspace link between two network namespaces (MTU 1500, a drop-tail queue of one bandwidth-delay product); \
             visitors and the server of the tunnel at one end, its client and the service at the other. One repetition."
        )?;
    }
    for link in results.links.values() {
        section(page, &link.title, &tables::figures(&link.table, tables::LINK.columns))?;
        writeln!(page, "\nCongestion control in use: {}.", congestion(&link.congestion))?;
    }
    fleet(page, results)?;
    not_measured(page, results)?;
    how(page)
}

fn head(page: &mut String, results: &Results) -> fmt::Result {
    writeln!(page, "| | |\n|---|---|")?;
    writeln!(page, "| machine | {} |", results.machine)?;
    writeln!(page, "| date | {} |", results.date)?;
    writeln!(page, "| reachback | {} |", results.commit)?;
    for (peer, version) in results.versions.iter().filter(|(peer, _)| !peer.starts_with("reachback")) {
        writeln!(page, "| {peer} | {version} |")?;
    }
    writeln!(page, "| congestion control in use | {} |", congestion(&results.congestion))?;
    writeln!(page, "| other programs meanwhile | {:.2} cores |", results.foreign_cores)?;
    if results.foreign_cores > QUIET {
        writeln!(
            page,
            "\n**The machine was busy with other programs: these figures show that the benchmark works, not how fast anything \
             is.**"
        )?;
    }
    if results.quick {
        writeln!(page, "\n**A quick run: few repetitions, short windows, no long links.**")?;
    }
    Ok(())
}

fn write_bars(page: &mut String, results: &Results, said: &Explanations) -> fmt::Result {
    writeln!(page, "| figure | reached | ratios | first bar | | goal | |\n|---|---:|---|---|---|---|---|")?;
    let mut missed = Vec::new();
    for bar in bars::all() {
        let verdict = bar.judge(results);
        let ratios: Vec<String> =
            verdict.ratios.iter().map(|(peer, ratio)| format!("{ratio:.2} × {peer}")).collect();
        writeln!(
            page,
            "| {} | {} | {} | {} | {} | {} | {} |",
            bar.title,
            verdict.reached.map_or("-".into(), tables::number),
            if ratios.is_empty() { "-".into() } else { ratios.join(", ") },
            bars::describe(bar.better, bar.first),
            word(verdict.first),
            bars::describe(bar.better, bar.goal),
            word(verdict.goal),
        )?;
        if verdict.first == Some(false) || verdict.goal == Some(false) && said.contains_key(&verdict.key) {
            missed.push((bar.title, verdict));
        }
    }
    writeln!(
        page,
        "| with TLS: bulk, CPU per GB | - | - | ≥ 1.5 × ssh-R | not measured: TLS is not built yet | ≥ 3 × ssh-R | |"
    )?;
    if !missed.is_empty() {
        writeln!(page, "\nWhy bars were missed:\n")?;
    }
    for (title, Verdict { key, .. }) in missed {
        let why = said.get(&key).map_or("**nobody has explained this yet.**", String::as_str);
        writeln!(page, "* {title} (`{key}`): {}", why.trim())?;
    }
    Ok(())
}

fn word(met: Option<bool>) -> &'static str {
    match met {
        Some(true) => "met",
        Some(false) => "**missed**",
        None => "not measured",
    }
}

fn section(page: &mut String, title: &str, table: &str) -> fmt::Result {
    if table.is_empty() {
        return Ok(());
    }
    writeln!(page, "\n### {title}\n\n{}", table.trim_end())
}

fn congestion(used: &BTreeMap<String, Congestion>) -> String {
    let mut ways: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for peer in Peer::ALL.map(Peer::name) {
        let Some(used) = used.get(peer) else { continue };
        let others = used.others.join("+");
        let way = match used.tunnel.join("+") {
            tunnel if tunnel.is_empty() || tunnel == others => others,
            tunnel => format!("{tunnel} in the tunnel, {others} at its ends"),
        };
        ways.entry(way).or_default().push(peer);
    }
    let ways: Vec<String> =
        ways.into_iter().map(|(way, peers)| format!("{way} ({})", peers.join(", "))).collect();
    if ways.is_empty() { "not known".into() } else { ways.join("; ") }
}

fn fleet(page: &mut String, results: &Results) -> fmt::Result {
    let Some(fleet) = &results.fleet else { return Ok(()) };
    writeln!(page, "\n## Fleet\n")?;
    writeln!(
        page,
        "{} nodes of the node library with real connections, in {} processes, on one explorer.\n",
        fleet.nodes, fleet.processes
    )?;
    writeln!(page, "| figure | value |\n|---|---:|")?;
    for (key, title) in crate::fleet::TITLES {
        if let Some(value) = fleet.figures.get(key) {
            writeln!(page, "| {title} | {} |", tables::number(*value))?;
        }
    }
    Ok(())
}

fn not_measured(page: &mut String, results: &Results) -> fmt::Result {
    if results.not_measured.is_empty() {
        return Ok(());
    }
    writeln!(page, "\n## Not measured\n")?;
    for (what, why) in &results.not_measured {
        writeln!(page, "* {what}: {}", why.lines().next().unwrap_or_default())?;
    }
    Ok(())
}

fn how(page: &mut String) -> fmt::Result {
    writeln!(page, "\n## How\n")?;
    writeln!(
        page,
        "Load generator, service and tunnel share the machine, in a network namespace of their own with the congestion \
         control pinned (cubic unless a row says otherwise; bbr costs a factor of two to three on loopback). Absolute figures \
         don't carry to another machine: compare ratios within one run. A two-thread ping-pong has two regimes, both ends on \
         one core or on two, and which one a run gets is the scheduler's choice.\n"
    )?;
    for (peer, way) in [
        ("direct", "the visitor connects to the service; no tunnel"),
        (
            "socat2",
            "`socat -b 65536 TCP-LISTEN:…,fork,nodelay TCP:…,nodelay` twice in a row: two relays, no protocol, a process per connection",
        ),
        ("rathole", "`rathole --server`, `rathole --client`, plain TCP, default options"),
        ("ssh-R", "`sshd -D`, `ssh -N -R`, keys of this run, default cipher; always encrypted"),
        ("reachback", "`reachback explorer --publish …`, `reachback node`, plaintext, the released binary"),
        (
            "reachback-tls",
            "the same with `--mode strict` and a node that joined: TLS 1.3, certificates on both sides",
        ),
        (
            "rathole-tls",
            "rathole with `type = \"tls\"`: the system's OpenSSL, a certificate for the server only",
        ),
        ("rathole-noise", "rathole with `type = \"noise\"`, its default pattern"),
    ] {
        writeln!(page, "* {peer}: {way}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn here(path: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
    }

    #[test]
    fn the_sentences_that_people_wrote_are_about_bars_that_there_are() {
        explanations(&here("explanations.toml")).unwrap();
    }

    #[test]
    fn a_missed_bar_asks_for_its_sentence_and_shows_it() {
        let results = Results::of(&[("reachback", "lat.p50_us", 200.0), ("rathole", "lat.p50_us", 100.0)]);
        let nobody = Explanations::new();
        assert_eq!(unexplained(&results, &nobody), ["lat.p50_us"]);
        assert!(page(&results, &nobody).contains("nobody has explained this yet"));
        let said = Explanations::from([("lat.p50_us".to_owned(), "Two hops more.".to_owned())]);
        assert_eq!(unexplained(&results, &said), Vec::<String>::new());
        let page = page(&results, &said);
        assert!(page.contains("(`lat.p50_us`): Two hops more."), "{page}");
        assert!(!page.contains("nobody has explained"), "{page}");
    }

    #[test]
    fn a_busy_machine_is_said_above_everything() {
        let mut results = Results::of(&[]);
        assert!(!page(&results, &Explanations::new()).contains("was busy"));
        results.foreign_cores = 1.3;
        assert!(page(&results, &Explanations::new()).contains("was busy"));
    }

    #[test]
    fn a_sentence_about_no_bar_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("explanations.toml");
        fs::write(&path, "\"bulk9.up.MBps\" = \"because\"").unwrap();
        assert!(explanations(&path).unwrap_err().to_string().contains("bulk9.up.MBps"));
    }
}
