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
            // What needs more than the usual build has is right but for that.
            Err(found) if cfg!(not(feature = "acme")) && block.contains("acme:") => {
                let found = found.to_string();
                assert!(found.contains("this gateway was built without the feature `acme`"), "{found}");
                assert_eq!(found.matches("error[").count(), 1, "{found}");
            }
            Err(found) => panic!("{found}"),
        }
    }
}
