//! Every YAML block of the documentation is a configuration.

use naka_gateway::config::parse_str;

#[test]
fn every_block_is_parsed() {
    let page = include_str!("../../../../docs/configuration.md");
    let blocks: Vec<_> =
        page.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(blocks.len() >= 3);
    for block in blocks {
        match parse_str("docs/configuration.md", block) {
            Ok((_, warnings)) => assert!(warnings.is_empty(), "{warnings}"),
            Err(found) => panic!("{found}"),
        }
    }
}
