//! The group that the local socket belongs to, by name or number.
//!
//! Names are looked up in /etc/group. Groups that exist only in a directory service are named by number: asking those
//! needs the C library's switch, which a static binary does not have.

use std::{fmt, fs, str::FromStr};

/// A group of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SocketGroup {
    pub(crate) number: u32,
    name: String,
}

impl FromStr for SocketGroup {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let groups = fs::read_to_string("/etc/group").unwrap_or_default();
        let number = text.parse().ok().or_else(|| number_of(&groups, text));
        match number {
            Some(number) => Ok(Self { number, name: text.to_owned() }),
            None => {
                Err(format!("/etc/group has no group \"{text}\"; make it with groupadd, or write a number"))
            }
        }
    }
}

impl fmt::Display for SocketGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

fn number_of(groups: &str, name: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        let groups = "root:x:0:\nhero:x:1042:ann,ben\nbroken:x:\n";
        assert_eq!(number_of(groups, "hero"), Some(1042));
        assert_eq!(number_of(groups, "broken"), None);
        assert_eq!(number_of(groups, "ann"), None);
        assert_eq!("1042".parse::<SocketGroup>().unwrap().number, 1042);
        assert!("no such group".parse::<SocketGroup>().unwrap_err().contains("groupadd"));
    }
}
