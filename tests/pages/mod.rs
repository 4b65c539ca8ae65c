//! The pages of the documentation as a test reads them: fenced blocks, and what a command is shown to print.

#![allow(dead_code, reason = "each test target uses a part of it")]

/// A fenced block of a page.
pub(crate) struct Block {
    /// Where it begins, from 1.
    pub(crate) line: usize,
    pub(crate) kind: String,
    pub(crate) options: Vec<String>,
    pub(crate) body: String,
}

impl Block {
    pub(crate) fn has(&self, option: &str) -> bool {
        self.options.iter().any(|known| known == option)
    }

    pub(crate) fn option(&self, name: &str) -> Option<String> {
        self.options.iter().find_map(|option| option.strip_prefix(name)).map(str::to_owned)
    }

    pub(crate) fn exit(&self) -> i32 {
        self.option("fails=").map_or(0, |code| code.parse().unwrap())
    }
}

pub(crate) fn blocks(text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut open = false;
    for (number, line) in text.lines().enumerate() {
        match line.strip_prefix("```") {
            Some(_) if open => open = false,
            Some(info) => {
                let mut words = info.split_whitespace().map(str::to_owned);
                let kind = words.next().unwrap_or_default();
                blocks.push(Block { line: number + 1, kind, options: words.collect(), body: String::new() });
                open = true;
            }
            None if open => {
                let block = blocks.last_mut().unwrap();
                block.body.push_str(line);
                block.body.push('\n');
            }
            None => {}
        }
    }
    assert!(!open, "a block is not closed");
    blocks
}

/// What a page shows as a command's output. Every line of it must be among the output's.
#[derive(Default)]
pub(crate) struct Expected {
    text: String,
    any_order: bool,
}

impl Expected {
    pub(crate) fn of(block: &Block) -> Self {
        Self::new(&block.body, block.has("any-order"))
    }

    /// Lines, in this order or in any.
    pub(crate) fn new(text: &str, any_order: bool) -> Self {
        Self { text: text.to_owned(), any_order }
    }

    /// The same, with its words replaced: free ports for those of the page.
    pub(crate) fn replaced(self, replaced: impl FnOnce(&str) -> String) -> Self {
        Self { text: replaced(&self.text), ..self }
    }

    pub(crate) fn compare(&self, output: &str) -> Result<(), String> {
        let mut lines = output.lines();
        for wanted in self.text.lines().filter(|line| !line.trim().is_empty()) {
            if self.any_order {
                lines = output.lines();
            }
            if !lines.by_ref().any(|line| matches(line, wanted)) {
                return Err(format!("no line like\n  {wanted}\nin\n{output}"));
            }
        }
        Ok(())
    }
}

/// Whether a line is what was shown: `…` stands for anything, and columns may be wider.
pub(crate) fn matches(line: &str, shown: &str) -> bool {
    let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (line, shown) = (squeezed(line), squeezed(shown));
    let mut parts = shown.split('…').map(str::trim);
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut last = None;
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
        last = Some(part);
    }
    match last {
        None => rest.is_empty(),
        Some("") => true,
        Some(part) => rest.is_empty() || line.ends_with(part),
    }
}

/// The join string in what a command printed: what somebody pastes where a page says `rb1_…`.
pub(crate) fn join_string(output: &str) -> Option<&str> {
    let mut words = output.split(|c: char| !(c.is_ascii_alphanumeric() || "_-".contains(c)));
    words.find(|word| word.starts_with("rb1_"))
}
