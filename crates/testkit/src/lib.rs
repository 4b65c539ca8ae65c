//! In-process explorers, nodes and broken links for tests.
