//! The recipes of docs/operations.md, "Day two", are followed to the letter, because they are read for the first time on
//! the day on which something is lost. Each has machines of its own, set up as the section's first blocks say.
//!
//! A block's first line says where it is typed: `sh on=hub` is run there as root and must succeed (`fails=77`: must end
//! with that code; `eventually`: is repeated until it does); `toml on=edge file=PATH` is written there; `zone` is what
//! the names lead to from then on; `text` after a block is what it printed, where `…` stands for anything. `rb1_…` in a
//! block is the join string that was printed last, as somebody would paste it.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail where the test would")]

mod operations_support;
mod pages;

use std::{fs, thread};

use reachback_testkit::eventually;

use self::{
    operations_support::{MACHINES, SOON, World},
    pages::{Block, Expected, blocks, join_string},
};

#[test]
fn the_recipes_of_day_two_work_as_written() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operations.md")).unwrap();
    let section = page.split("\n## Day two\n").nth(1).expect("a section of this name");
    let section = section.split("\n## ").next().unwrap();
    let mut recipes = section.split("\n### ");
    let setup = blocks(recipes.next().unwrap());
    let recipes: Vec<&str> = recipes.collect();
    assert!(recipes.len() >= 9, "only {} recipes; has their marking changed?", recipes.len());
    // Each on a thread of its own: a program ends with the thread that started it.
    thread::scope(|scope| {
        for recipe in recipes {
            let (name, text) = recipe.split_once('\n').unwrap();
            let (setup, steps) = (&setup, blocks(text));
            assert!(steps.iter().any(|block| block.kind == "sh"), "{name}: a recipe without a command");
            let reader = move || {
                let Some(world) = World::start() else { return };
                let mut reader = Reader { world, pasted: String::new() };
                reader.follow("the set-up", setup);
                reader.follow(name, &steps);
            };
            thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, reader).unwrap();
        }
    });
}

/// Somebody who types what is written.
struct Reader {
    world: World,
    /// What stands for `rb1_…`.
    pasted: String,
}

impl Reader {
    fn follow(&mut self, recipe: &str, blocks: &[Block]) {
        for (number, block) in blocks.iter().enumerate() {
            let place = format!("{recipe}, line {}", block.line);
            let shown = blocks.get(number + 1).filter(|next| next.kind == "text").map(Expected::of);
            let machine = || block.option("on=").unwrap_or_else(|| panic!("{place}: on which machine?"));
            match block.kind.as_str() {
                "sh" => self.type_in(&place, &machine(), block, &shown.unwrap_or_default()),
                "toml" => {
                    let file = block.option("file=").unwrap_or_else(|| panic!("{place}: into which file?"));
                    let file = self.world.root(&machine()).join(file.trim_start_matches('/'));
                    fs::write(file, &block.body).unwrap();
                }
                "zone" => self.world.names_are(&names(&block.body)),
                "text" => assert!(number > 0, "{place}: what printed this?"),
                other => panic!("{place}: {other:?} is nothing that can be followed"),
            }
        }
    }

    fn type_in(&mut self, place: &str, machine: &str, block: &Block, shown: &Expected) {
        let script = block.body.replace("rb1_…", &self.pasted);
        let once = || {
            let finished = self.world.run(machine, &script);
            let output = format!("{}{}", finished.stdout, finished.stderr);
            match finished.status.code() == Some(block.exit()) {
                true => shown.compare(&output).map(|()| output),
                false => Err(format!("{}: {output}", finished.status)),
            }
        };
        let output = match block.has("eventually") {
            true => eventually(SOON, place, once),
            false => once().unwrap_or_else(|why| panic!("{place}, on {machine}: {why}")),
        };
        if let Some(printed) = join_string(&output) {
            printed.clone_into(&mut self.pasted);
        }
    }
}

/// The names of a zone's lines, `NAME. TTL IN A ADDRESS`, with their addresses.
fn names(zone: &str) -> Vec<(&str, &str)> {
    let lines = zone.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines
        .map(|words| match words.as_slice() {
            [name, _, "IN", "A", address] => {
                assert!(MACHINES.iter().any(|(_, known)| known == address), "nobody has {address}");
                (name.trim_end_matches('.'), *address)
            }
            other => panic!("{other:?} is no line of a zone"),
        })
        .collect()
}
