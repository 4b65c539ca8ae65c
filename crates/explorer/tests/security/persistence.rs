//! What is on disk: what survives a restart, what must not be passed over, and disks that fail.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command, time::Duration};

use reachback_explorer::security::{Entry, SecurityError, TokenRequest, Uses};
use reachback_wire::{Code, NodeId, Refusal};
use rusqlite::Connection;

use crate::support::{DAY, HOUR, Lab, MINUTE, admin, id, key, refused, register, rights, user};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn start_refused(lab: &mut Lab, words: &[&str]) {
    let error = lab.try_restart().unwrap_err().to_string();
    for word in words {
        assert!(error.contains(word), "{word:?} is missing: {error}");
    }
}

#[test]
fn everything_is_there_after_a_restart_and_for_nobody_else_to_read() {
    let mut lab = Lab::new();
    assert!(lab.security().made_now());
    let (pin, token) = (lab.security().material().pin, lab.token(&user("ann", &["a/b"])));
    let many = lab.token(&TokenRequest {
        uses: Some(Uses::Limited(2)),
        allow: rights(&["mac/rpc"]),
        ..register("*")
    });
    let (edge, ann) = (key(), key());
    let names = lab.join(&many, "edge-7", &edge).unwrap();
    let anns = lab.login(&token, &ann).unwrap();
    lab.node("edge-8");
    lab.revoke("edge-8");
    let bob = lab.token(&user("bob", &["a/b"]));
    lab.revoke("user:bob");
    let tokens = lab.security().list_tokens();

    lab.restart();
    assert!(!lab.security().made_now() && lab.security().material().pin == pin);
    assert_eq!(lab.security().list_tokens(), tokens);
    assert_eq!(lab.as_node(&names, "edge-7").unwrap().rights.to_string(), "mac/rpc");
    lab.as_user(&anns).unwrap();
    refused(lab.join(&lab.one_node(), "edge-8", &key()), Code::Revoked, &[]);
    refused(lab.bearer(&bob), Code::Revoked, &[]);
    refused(lab.bearer(&token), Code::Unauthenticated, &["was used to log in"]);
    lab.join(&many, "edge-9", &key()).unwrap();
    refused(lab.join(&many, "edge-10", &key()), Code::Denied, &["as often as it may"]);
    assert_eq!(lab.audit()[0].action, "authority made");

    assert_eq!((mode(&lab.directory()), mode(&lab.file("keys"))), (0o700, 0o700));
    let mut files: Vec<_> =
        ["", "keys"].iter().flat_map(|below| fs::read_dir(lab.file(below)).unwrap()).collect();
    files.retain(|file| file.as_ref().unwrap().file_type().unwrap().is_file());
    let mut names: Vec<_> = files.into_iter().map(|file| file.unwrap()).collect();
    names.sort_by_key(fs::DirEntry::file_name);
    let named: Vec<_> = names.iter().map(|file| file.file_name().into_string().unwrap()).collect();
    assert_eq!(named, ["audit.jsonl", "ca.pem", "lock", "security.db", "token.pem"]);
    for file in &names {
        assert_eq!(mode(&file.path()), 0o600, "{file:?}");
    }
}

#[test]
fn two_explorers_never_share_a_directory() {
    let lab = Lab::new();
    let error = lab.open(&lab.directory()).unwrap_err();
    assert!(
        matches!(error, SecurityError::InUse { .. }) && error.to_string().contains("--state-dir"),
        "{error}"
    );
}

#[test]
fn what_is_damaged_or_gone_is_never_made_anew() {
    let mut lab = Lab::new();
    let (names, _) = lab.node("edge-7");
    lab.stop();
    let (database, authority, tokens) =
        (lab.file("security.db"), lab.file("keys/ca.pem"), lab.file("keys/token.pem"));
    let good = fs::read(&database).unwrap();

    fs::write(&database, b"this was a database once, and is none any more, whatever it is called").unwrap();
    start_refused(&mut lab, &["security.db", "not a database", "Restore it from a backup"]);
    let mut half = good.clone();
    half.truncate(good.len() / 2);
    fs::write(&database, &half).unwrap();
    start_refused(&mut lab, &["security.db", "Restore it from a backup"]);
    fs::remove_file(&database).unwrap();
    start_refused(&mut lab, &["its database is not", "nobody knows what was revoked", "touch "]);
    fs::write(&database, &good).unwrap();
    Connection::open(&database).unwrap().pragma_update(None, "user_version", 99).unwrap();
    start_refused(&mut lab, &["version 99", "newer reachback"]);
    fs::remove_file(&database).unwrap();
    Connection::open(&database).unwrap().execute_batch("CREATE TABLE other (x)").unwrap();
    start_refused(&mut lab, &["no security database of reachback"]);
    fs::write(&database, &good).unwrap();

    for path in [&authority, &tokens] {
        let content = fs::read(path).unwrap();
        fs::remove_file(path).unwrap();
        start_refused(&mut lab, &[path.to_str().unwrap(), "this key is not", "backup"]);
        fs::write(path, "nothing").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
        start_refused(&mut lab, &[path.to_str().unwrap(), "no private key in it"]);
        fs::write(path, &content).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
        start_refused(&mut lab, &["other users can read this key", "chmod 0600"]);
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    lab.restart();
    lab.as_node(&names, "edge-7").unwrap();

    // The way back that the refusal names: nodes are still known by their certificates, rights and revocations are gone.
    lab.stop();
    fs::write(&database, b"").unwrap();
    lab.restart();
    assert!(!lab.security().made_now());
    lab.as_node(&names, "edge-7").unwrap();
}

#[test]
fn a_start_that_was_interrupted_is_finished_by_the_next() {
    let mut lab = Lab::new();
    lab.stop();
    // The authority is written last: without it nothing was handed out yet... but its database says otherwise.
    fs::remove_file(lab.file("keys/ca.pem")).unwrap();
    fs::write(lab.file("security.db"), b"").unwrap();
    lab.restart();
    lab.node("edge-7");
}

/// Somebody else has the database, as an operator with a tool has, or a disk that fails.
fn with_a_database_that_cannot_be_written(lab: &Lab, then: impl FnOnce()) {
    let other = Connection::open(lab.file("security.db")).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    then();
    other.execute_batch("ROLLBACK").unwrap();
}

#[test]
fn without_a_disk_old_rights_go_on_new_ones_wait_and_taking_away_works() {
    let mut lab = Lab::new();
    let ((edge, edge_key), (other, _)) = (lab.node("edge-7"), lab.node("edge-8"));
    let (token, one, bearer) =
        (lab.token(&user("ann", &["a/b"])), lab.one_node(), lab.token(&user("bob", &["a/b"])));
    lab.pass(DAY);
    lab.go_back(DAY - MINUTE);
    let session = lab.as_node(&other, "edge-8").unwrap();
    with_a_database_that_cannot_be_written(&lab, || {
        lab.as_node(&edge, "edge-7").unwrap();
        lab.bearer(&bearer).unwrap();
        let unwritable = |outcome: Result<(), Refusal>| {
            let refusal =
                refused(outcome, Code::Internal, &["can't write", "security.db", "Who is in stays in"]);
            assert_eq!(refusal.wait(), Some(MINUTE));
        };
        unwritable(lab.join(&one, "edge-9", &key()).map(drop));
        unwritable(lab.login(&token, &key()).map(drop));
        unwritable(lab.renew(&edge, &edge_key).map(drop));
        unwritable(lab.security().create_token(&register("*"), &admin()).map(drop));
        unwritable(lab.security().release(&id("edge-7"), &admin()).map(drop));
        let revoked = lab.security().revoke(&"edge-8".parse().unwrap(), &admin());
        refused(revoked, Code::Internal, &["until this explorer is started again", "Revoke it once more"]);
        refused(lab.security().still_good(&session), Code::Revoked, &[]);
    });
    // A use that could not be written down was none.
    lab.join(&one, "edge-9", &key()).unwrap();
    refused(lab.as_node(&other, "edge-8"), Code::Revoked, &[]);
    lab.restart();
    lab.as_node(&other, "edge-8").expect("as it was said");
}

#[test]
fn a_backup_made_while_it_serves_is_a_whole_explorer() {
    let lab = Lab::new();
    let (names, edge) = lab.node("edge-7");
    lab.node("edge-8");
    lab.revoke("edge-8");
    let file = lab.file("../backup.tar");
    let file = lab.directory().parent().unwrap().join(file.file_name().unwrap());
    let bytes = lab.security().backup(&file, &admin()).unwrap();
    assert_eq!((fs::metadata(&file).unwrap().len(), mode(&file)), (bytes, 0o600));
    // What comes after it is not in it.
    lab.node("edge-9");
    let second = lab.security().backup(&file, &admin()).unwrap();
    assert!(second >= bytes);

    let place = tempfile::tempdir().unwrap();
    let unpacked = Command::new("tar").arg("-xf").arg(&file).arg("-C").arg(place.path()).status().unwrap();
    assert!(unpacked.success());
    let mut listed: Vec<_> =
        fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    listed.sort();
    assert_eq!(listed, ["keys", "security.db"]);
    assert_eq!(mode(&place.path().join("keys/ca.pem")), 0o600);
    let restored = lab.open(place.path()).unwrap();
    assert_eq!(restored.material().pin, lab.security().material().pin);
    let node = |name: &str| -> NodeId { id(name) };
    let admit = |name: &str| restored.admit_certificate(&names, reachback_wire::Role::Node, &node(name));
    admit("edge-7").unwrap();
    let token = restored.create_token(&register("*"), &admin()).unwrap().token;
    let again = restored.enrol(&token, key().csr(), reachback_wire::Role::Node, &node("edge-8"), "test");
    refused(again, Code::Revoked, &[]);
    lab.pass(45 * DAY);
    restored.renew(&names, edge.csr(), "test").unwrap();

    for wrong in ["backup.tar", "/nowhere/at/all/backup.tar"] {
        let outcome = lab.security().backup(Path::new(wrong), &admin());
        assert!(outcome.unwrap_err().message.len() > 40);
    }
    assert_eq!(fs::metadata(&file).unwrap().len(), second);
}

#[test]
fn tokens_from_after_a_backup_are_judged_by_what_they_say() {
    let lab = Lab::new();
    let file = lab.directory().parent().unwrap().join("backup.tar");
    lab.security().backup(&file, &admin()).unwrap();
    let (bob, nodes) = (lab.token(&user("bob", &["a/b"])), lab.one_node());
    let place = tempfile::tempdir().unwrap();
    assert!(
        Command::new("tar").arg("-xf").arg(&file).arg("-C").arg(place.path()).status().unwrap().success()
    );
    let restored = lab.open(place.path()).unwrap();
    let bearer = || restored.admit_token(&bob, reachback_wire::Role::Client, &id("laptop"), None);
    let session = bearer().unwrap();
    let joined = restored.enrol(&nodes, key().csr(), reachback_wire::Role::Node, &id("edge-7"), "test");
    refused(joined, Code::Unauthenticated, &["no record of token", "restored from a backup"]);
    restored.revoke(&"user:bob".parse().unwrap(), &admin()).unwrap();
    refused(bearer(), Code::Revoked, &[]);
    refused(restored.still_good(&session), Code::Revoked, &[]);
}

#[test]
fn the_audit_is_bounded_and_strangers_do_not_push_out_what_operators_did() {
    let lab = Lab::new();
    lab.revoke("node:edge-7");
    for _ in 0..200 {
        refused(lab.join(&lab.one_node_once(), "edge-7", &key()), Code::Revoked, &[]);
    }
    let of = |action: &str| lab.audit().iter().filter(|line| line.action == action).count();
    assert_eq!((of("join"), of("revoke")), (60, 1));
    lab.pass(MINUTE);
    refused(lab.join(&lab.one_node_once(), "edge-7", &key()), Code::Revoked, &[]);
    let lines = lab.audit();
    assert_eq!(lines.iter().map(|line| line.left_out).sum::<u64>(), 140);
    assert_eq!(lab.security().audit().lost(), 0);
}

#[test]
fn what_must_not_wait_for_a_disk_is_written_with_the_next_line() {
    let lab = Lab::new();
    let refusal = Refusal::new(Code::Denied, "user \"ann\" may call nothing");
    let note = || {
        let entry = Entry::new("open", "edge-7/rpc\n").by("user \"ann\"").from("198.51.100.8:4711");
        lab.security().audit().defer(&entry.refused(&refusal));
    };
    let written = || fs::read_to_string(lab.file("audit.jsonl")).unwrap();
    note();
    assert!(!written().contains("ann"));
    lab.security().keep_up().unwrap();
    assert!(
        written().ends_with("\"outcome\":\"denied\",\"detail\":\"user \\\"ann\\\" may call nothing\"}\n"),
        "{}",
        written()
    );
    lab.pass(MINUTE);
    (0..70).for_each(|_| note());
    lab.pass(MINUTE);
    note();
    lab.revoke("node:edge-7");
    let lines = lab.audit();
    let actions: Vec<_> = lines.iter().map(|line| line.action.as_str()).collect();
    assert_eq!(
        (actions.len(), actions[0], actions[62], actions[63]),
        (64, "authority made", "open", "revoke")
    );
    assert_eq!((lines[62].left_out, lines[61].left_out, lines[1].subject.as_str()), (10, 0, "edge-7/rpc\\n"));
    // Asking for the last lines is asking for these, too.
    note();
    assert_eq!(lab.audit().last().unwrap().action, "open");
}

#[test]
fn an_audit_that_cannot_be_written_stops_nothing_and_is_counted() {
    let lab = Lab::new();
    lab.node("edge-7");
    let (audit, aside) = (lab.file("audit.jsonl"), lab.file("aside"));
    fs::rename(&audit, &aside).unwrap();
    // A new process finds a directory in its place.
    fs::create_dir(&audit).unwrap();
    let mut lab = lab;
    lab.restart();
    lab.node("edge-8");
    lab.revoke("edge-8");
    assert_eq!(lab.security().audit().lost(), 3);
    assert!(lab.security().audit().last(10).is_err());
    fs::remove_dir(&audit).unwrap();
    fs::write(&audit, "{\"at\":\"half a li").unwrap();
    lab.security().release(&id("edge-8"), &admin()).unwrap();
    lab.pass(Duration::from_secs(1));
    lab.node("edge-8");
    let actions: Vec<_> = lab.audit().into_iter().map(|line| line.action).collect();
    assert_eq!(actions, ["release", "token create", "join"]);
    assert_eq!(lab.security().audit().lost(), 3);
}

#[test]
fn a_token_with_time_left_works_after_a_restart() {
    let mut lab = Lab::new();
    let token = lab.one_node();
    lab.restart();
    lab.join(&token, "edge-7", &key()).unwrap();
    lab.pass(HOUR);
    refused(lab.join(&token, "edge-8", &key()), Code::Expired, &[]);
}
