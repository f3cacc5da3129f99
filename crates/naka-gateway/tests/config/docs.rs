//! Every YAML block of the documentation is a configuration, and its own tests hold.

use std::sync::Arc;

use naka_gateway::{config::parse_str, prepare::run_tests};

#[tokio::test]
async fn every_block_is_parsed_and_its_tests_hold() {
    let page = include_str!("../../../../docs/configuration.md");
    let blocks: Vec<_> =
        page.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(blocks.len() >= 7);
    for block in blocks {
        // The files that blocks name stand beside this test.
        match parse_str("tests/config/configuration.md", block) {
            Ok((config, warnings)) => {
                assert!(warnings.is_empty(), "{warnings}");
                let failed = run_tests(&Arc::new(config));
                assert!(failed.is_empty(), "{}", failed[0].explanation);
            }
            Err(found) => panic!("{found}"),
        }
    }
}
