//! docs/tensor_chain.md says which test shows each thing that users of that transport need. A test that was renamed or
//! removed would leave a promise that nobody looks after any more.

mod table_support;

/// What they need, by number.
const ROWS: u32 = 13;

#[test]
fn every_row_says_how_it_works_and_names_tests_that_exist() {
    table_support::assert_rows("docs/tensor_chain.md", ROWS);
}
