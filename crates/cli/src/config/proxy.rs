//! The way out: which proxy explorers are dialled through, from the flag, the file or the variables that every program
//! on the machine reads.

use std::{fmt, sync::Arc};

use reachback_link::{Net, NoProxy, Proxied, Proxy, RealNet};

use crate::{
    config::{
        file::Checked,
        origin::{Origin, Origins},
    },
    environment::Environment,
    exit::Failure,
};

/// A proxy, or the word that there is none whatever the variables say.
#[derive(Clone)]
pub(crate) struct ProxyChoice {
    /// None: dial directly.
    proxy: Option<Proxy>,
    text: String,
}

impl ProxyChoice {
    /// As it was typed, credentials included: for the environment of a child, never for a log.
    pub(crate) fn typed(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for ProxyChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.proxy {
            Some(proxy) => write!(f, "{proxy}"),
            None => f.write_str("off"),
        }
    }
}

impl std::str::FromStr for ProxyChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let proxy = match text.trim() {
            "off" => None,
            proxy => Some(proxy.parse().map_err(|error| format!("{error}"))?),
        };
        Ok(Self { proxy, text: text.to_owned() })
    }
}

/// Variables that other programs read too, in the order in which they count.
const USUAL: [&str; 2] = ["HTTPS_PROXY", "https_proxy"];
const EXCEPT: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// The proxy to use, if any. `NO_PROXY` holds for whichever it is; this machine itself is never reached through the one
/// that `HTTPS_PROXY` names, which nobody set for us.
pub(crate) fn resolve(
    typed: Option<ProxyChoice>,
    environment: &Environment,
    file: Option<Checked<ProxyChoice>>,
    origins: &mut Origins,
) -> Result<Option<Proxy>, Failure> {
    let mut except = NoProxy::default();
    for name in EXCEPT {
        if let Some(listed) = environment.parse(name)? {
            except = listed;
            break;
        }
    }
    let ours = |proxy: Proxy| proxy.with_exceptions(except.clone());
    let mut sources = vec![(Origin::Typed, typed.map(|choice| choice.proxy.map(ours)))];
    for name in USUAL {
        let usual = environment.parse::<Proxy>(name)?;
        let local = except.clone().and_this_machine();
        let usual = usual.map(|proxy| Some(proxy.with_exceptions(local)));
        sources.push((Origin::Variable(name), usual));
    }
    sources.push((Origin::File, file.map(|choice| choice.0.proxy.map(ours))));
    let chosen = sources.into_iter().find(|(_, choice)| choice.is_some());
    let Some((origin, Some(choice))) = chosen else { return Ok(None) };
    let shown = choice.as_ref().map_or("off".to_owned(), ToString::to_string);
    origins.note("proxy", shown, origin);
    Ok(choice)
}

/// The network as commands use it.
pub(crate) fn net(proxy: Option<Proxy>) -> Arc<dyn Net> {
    let direct: Arc<dyn Net> = Arc::new(RealNet);
    match proxy {
        Some(proxy) => Arc::new(Proxied::new(direct, proxy)),
        None => direct,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(typed: Option<&str>, variables: &[(&str, &str)], to: &str) -> Option<String> {
        let environment =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let typed = typed.map(|text| text.parse().unwrap());
        let proxy = resolve(typed, &environment, None, &mut Origins::default()).unwrap()?;
        proxy.carries(&to.parse().unwrap()).then(|| proxy.to_string())
    }

    #[test]
    fn the_flag_wins_over_the_usual_variables() {
        let usual = [("HTTPS_PROXY", "http://usual:3128")];
        assert!(chosen(None, &usual, "hub:9002").unwrap().contains("usual"));
        assert!(chosen(Some("socks5://mine:1080"), &usual, "hub:9002").unwrap().contains("mine"));
        assert_eq!(chosen(Some("off"), &usual, "hub:9002"), None);
        assert!(chosen(None, &[("https_proxy", "small:1")], "hub:9002").unwrap().contains("small"));
        assert_eq!(chosen(None, &[], "hub:9002"), None);
    }

    #[test]
    fn exceptions_hold_and_this_machine_is_one_unless_typed() {
        let both = [("HTTPS_PROXY", "http://usual:3128"), ("NO_PROXY", "hub")];
        assert_eq!(chosen(None, &both, "hub:9002"), None);
        assert_eq!(chosen(Some("http://mine:1"), &both, "hub:9002"), None);
        assert_eq!(chosen(None, &both, "127.0.0.1:9002"), None);
        assert!(chosen(Some("http://mine:1"), &both, "127.0.0.1:9002").is_some());
    }

    #[test]
    fn a_wrong_variable_is_named_without_its_password() {
        let environment: Environment =
            [("HTTPS_PROXY".to_owned(), "ftp://me:secret@x".to_owned())].into_iter().collect();
        let failure = resolve(None, &environment, None, &mut Origins::default()).unwrap_err().to_string();
        assert!(failure.contains("HTTPS_PROXY") && !failure.contains("secret"), "{failure}");
    }
}
