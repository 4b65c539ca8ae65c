//! Rights: written by operators, carried in tokens, asked about targets and methods that callers choose. What a pattern
//! covers is compared with a second, slower way of finding it out, and nothing is allowed that no right covers.

use reachback_wire::{
    Code, Target,
    rights::{Right, Rights, TargetPattern},
    text::sanitize,
};

use super::{Verdict, situation};

/// Lines of text: a target, a method, and the rights of the caller.
///
/// # Panics
/// If a promise is broken.
pub fn check(input: &[u8]) -> Verdict {
    let (_, _, bytes) = situation(input);
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.split('\n');
    let (target, method) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let mut rights = Vec::new();
    for line in lines {
        match line.parse::<Right>() {
            Ok(right) => {
                assert_eq!(
                    right.to_string().parse::<Right>().as_ref(),
                    Ok(&right),
                    "{line} changed on its second way"
                );
                rights.push(right);
            }
            Err(error) => {
                told(&error.to_string());
                return Verdict::Refused(Code::BadFrame);
            }
        }
    }
    let target = match target.parse::<Target>() {
        Ok(target) => target,
        Err(error) => {
            told(&error.to_string());
            return Verdict::Refused(Code::BadFrame);
        }
    };
    let held = match Rights::new(rights.clone()) {
        Ok(held) => held,
        Err(error) => {
            told(&error.to_string());
            return Verdict::Refused(Code::TooLarge);
        }
    };

    assert!(!Rights::default().allows_target(&target) && !Rights::default().allows_method(&target, method));
    assert!(
        Rights::everything().allows_target(&target) && Rights::everything().allows_method(&target, method)
    );
    let covering: Vec<&Right> = rights.iter().filter(|right| covers(&right.target, &target)).collect();
    let by_method = |right: &&Right| right.method.as_ref().is_none_or(|named| glob(named.as_str(), method));
    assert_eq!(held.allows_target(&target), !covering.is_empty(), "{rights:?} and {target}");
    assert_eq!(
        held.allows_method(&target, method),
        covering.iter().any(by_method),
        "{rights:?}, {target}, {method}"
    );
    assert_eq!(held.restricts_methods(&target), covering.iter().all(|right| right.method.is_some()));
    match held.allows_method(&target, method) {
        true => Verdict::Fine,
        false => Verdict::Refused(Code::Denied),
    }
}

fn told(error: &str) {
    assert_eq!(sanitize(error, usize::MAX), error, "an error forges what it is printed on");
    assert!(error.len() < 600, "an error repeats too much: {error}");
}

fn covers(pattern: &TargetPattern, target: &Target) -> bool {
    match (pattern, target) {
        (TargetPattern::Service { node, service }, Target::Service { node: on, service: named }) => {
            glob(node.as_str(), on.as_ref()) && glob(service.as_str(), named.as_ref())
        }
        (TargetPattern::Dial { node }, Target::Dial { node: behind, .. }) => {
            glob(node.as_str(), behind.as_ref())
        }
        (TargetPattern::Explorer { service }, Target::Explorer { service: named }) => {
            glob(service.as_str(), named.as_ref())
        }
        (TargetPattern::Service { .. } | TargetPattern::Dial { .. } | TargetPattern::Explorer { .. }, _) => {
            false
        }
    }
}

/// Which beginnings of the name fit which beginnings of the pattern, all of them.
fn glob(pattern: &str, name: &str) -> bool {
    let name = name.as_bytes();
    let mut fits = vec![false; name.len() + 1];
    fits[0] = true;
    for wanted in pattern.bytes() {
        if wanted == b'*' {
            for at in 0..name.len() {
                fits[at + 1] |= fits[at];
            }
        } else {
            for at in (0..name.len()).rev() {
                fits[at + 1] = fits[at] && name[at] == wanted;
            }
            fits[0] = false;
        }
    }
    fits[name.len()]
}
