//! Certificates that are ordered: the gateway, an authority, and what becomes of both. Needs the feature `acme`.

#![allow(clippy::unwrap_used, missing_docs, reason = "tests may")]

mod authority;
mod client;
mod gateway;
mod process;

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use tokio::time::sleep;

use self::{
    authority::Mood,
    client::{ACME, dial_anybody},
    gateway::{World, YAML, until},
};

const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

const NO_CERTIFICATE: &str = "naka_tls_handshakes_total{listener=\"web\",outcome=\"no_certificate\"}";
const CHALLENGE: &str = "naka_tls_handshakes_total{listener=\"web\",outcome=\"challenge\"}";
const NOT_AFTER: &str = "naka_tls_certificate_not_after_seconds{listener=\"web\"";

fn files(folder: &Path, end: &str) -> Vec<std::path::PathBuf> {
    let all = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    all.filter(|path| path.to_string_lossy().ends_with(end)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_certificate_is_ordered_once_its_authority_can_be_asked_and_shown_without_a_restart() {
    let world = World::new();
    world.authority.is(Mood::Down);
    let gateway = world.gateway(YAML).await;
    until("the first order has failed", || gateway.orders("failed") == 1).await;
    assert!(gateway.status().last_error.unwrap().contains("https://acme.example/directory"));
    let refused = gateway.shown("shop.example").await.unwrap_err();
    assert_eq!(gateway.metric(NO_CERTIFICATE), Some(1.0), "{refused}");
    assert_eq!(gateway.metric(NOT_AFTER), None);

    world.authority.is(Mood::Well);
    until("a certificate was issued", || gateway.orders("issued") == 1).await;
    for host in ["shop.example", "www.shop.example", "WWW.shop.example"] {
        assert_eq!(gateway.get(host, &world.authority).await.unwrap(), "shop");
    }
    let status = gateway.status();
    assert_eq!((status.failures, status.last_error, status.doing.word()), (0, None, "waiting"));
    let until_s = f64::from(u32::try_from(status.valid_until_s.unwrap()).unwrap());
    assert_eq!(gateway.metric(NOT_AFTER), Some(until_s));
    assert_eq!(gateway.metric(CHALLENGE), Some(2.0));
    let books = world.authority.books();
    assert_eq!((books.accounts.len(), books.asked, books.certificates), (1, 1, 1));
    assert_eq!(books.validated, ["shop.example", "www.shop.example"]);
    assert_eq!(books.contacts, [serde_json::json!(["mailto:ops@shop.example"])]);
}

#[tokio::test(start_paused = true)]
async fn only_who_speaks_acme_and_nothing_else_is_shown_a_challenge_and_never_gets_further() {
    let world = World::new();
    world.authority.is(Mood::Slow);
    let gateway = world.gateway(YAML).await;
    let knock = |host: &'static str, alpn: &'static [&'static [u8]]| {
        dial_anybody(gateway.front.connect(), host, alpn)
    };
    let mut shown = None;
    for _ in 0..100 {
        sleep(Duration::from_secs(1)).await;
        shown = knock("shop.example", &[ACME]).await.ok();
        if shown.is_some() {
            break;
        }
    }
    let shown = shown.expect("the challenge is there");
    assert_eq!(shown.get_ref().1.alpn_protocol(), Some(ACME));
    for (host, alpn) in [
        ("shop.example", &[ACME, b"http/1.1"][..]),
        ("shop.example", &[b"http/1.1", ACME]),
        ("shop.example", &[b"http/1.1"]),
        ("shop.example", &[]),
        ("other.example", &[ACME]),
    ] {
        assert!(knock(host, alpn).await.is_err(), "{host} {alpn:?}");
    }
    until("the order was given up", || gateway.orders("failed") == 1).await;
    assert!(gateway.status().last_error.unwrap().contains("not done in 10 minutes"));
    assert!(knock("shop.example", &[ACME]).await.is_err(), "the challenge ends with its order");
}

#[tokio::test(start_paused = true)]
async fn a_certificate_is_renewed_when_two_thirds_of_its_time_are_over() {
    let world = World::new();
    let gateway = world.gateway(YAML).await;
    until("there is one", || gateway.orders("issued") == 1).await;
    let first = gateway.shown("shop.example").await.unwrap();
    sleep(59 * DAY + 23 * HOUR).await;
    assert_eq!(world.authority.books().asked, 1, "not before");
    assert_eq!(gateway.shown("shop.example").await.unwrap(), first);
    sleep(5 * DAY).await;
    assert_eq!((gateway.orders("issued"), world.authority.books().certificates), (2, 2));
    assert_ne!(gateway.shown("shop.example").await.unwrap(), first);
    assert_eq!(world.authority.books().accounts.len(), 1, "by the same account");
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_is_asked_for_more_seldom_each_time_while_the_old_certificate_is_shown() {
    let world = World::new();
    let gateway = world.gateway(YAML).await;
    until("there is one", || gateway.orders("issued") == 1).await;
    let first = gateway.shown("shop.example").await.unwrap();

    world.authority.is(Mood::Doubtful);
    sleep(59 * DAY).await;
    until("it is refused", || gateway.status().failures == 1).await;
    assert_eq!(gateway.orders("refused"), 1);
    let error = gateway.status().last_error.unwrap();
    assert!(error.contains("shop.example") && error.contains("nobody answers there"), "{error}");
    sleep(HOUR).await;
    assert_eq!(world.authority.books().asked, 1 + 4, "after 5, 10 and 20 minutes, and a little");
    sleep(2 * DAY).await;
    let asked = world.authority.books().asked;
    assert!((1 + 4 + 3 + 6..1 + 4 + 4 + 9).contains(&asked), "{asked}: then every six hours");
    assert_eq!(gateway.shown("shop.example").await.unwrap(), first);

    world.authority.is(Mood::Limited(DAY));
    until("it is limited", || world.authority.books().asked > asked).await;
    sleep(22 * HOUR).await;
    assert_eq!(world.authority.books().asked, asked + 1, "it said how long");
    world.authority.is(Mood::Well);
    until("it is renewed", || gateway.orders("issued") == 2).await;
    assert_ne!(gateway.shown("shop.example").await.unwrap(), first);
    assert_eq!((gateway.status().failures, gateway.status().last_error), (0, None));
}

#[tokio::test(start_paused = true)]
async fn a_restart_shows_what_is_kept_and_orders_nothing() {
    let world = World::new();
    let gateway = world.gateway(YAML).await;
    until("there is one", || gateway.orders("issued") == 1).await;
    let shown = gateway.shown("shop.example").await.unwrap();
    world.dies(gateway);
    let kept = world.folder.path().join("kept");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&kept), 0o700);
    let all = fs::read_dir(&kept).unwrap().map(|it| it.unwrap().path()).collect::<Vec<_>>();
    assert_eq!(all.iter().map(|path| mode(path)).collect::<Vec<_>>(), [0o600; 3], "{all:?}");

    world.authority.is(Mood::Down);
    let gateway = world.gateway(YAML).await;
    assert_eq!(gateway.shown("shop.example").await.unwrap(), shown, "before anything is waited for");
    sleep(30 * DAY).await;
    assert_eq!((gateway.orders("failed"), world.authority.books().asked), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_and_unfit_is_set_aside_and_ordered_anew() {
    let world = World::new();
    let gateway = world.gateway(YAML).await;
    until("there is one", || gateway.orders("issued") == 1).await;
    world.dies(gateway);
    let kept = world.folder.path().join("kept");
    let [pem] = &files(&kept, ".pem")[..] else { panic!("one certificate") };
    let whole = fs::read_to_string(pem).unwrap();
    let other_key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let place = whole.find("-----BEGIN CERTIFICATE").unwrap();
    let other_host = rcgen::generate_simple_self_signed(["shop.example".to_owned()]).unwrap();
    let other_host = format!("{}{}", other_host.signing_key.serialize_pem(), other_host.cert.pem());
    let unfit =
        [format!("{other_key}{}", &whole[place..]), other_host, "nothing".into(), whole[place..].into()];
    for (number, unfit) in unfit.iter().enumerate() {
        fs::write(pem, unfit).unwrap();
        let gateway = world.gateway(YAML).await;
        until("there is another one", || gateway.orders("issued") == 1).await;
        assert_eq!(world.authority.books().asked, number + 2);
        assert_eq!(gateway.get("www.shop.example", &world.authority).await.unwrap(), "shop");
        assert_eq!(&fs::read_to_string(&files(&kept, ".unfit")[0]).unwrap(), unfit);
        world.dies(gateway);
    }
    assert_eq!(world.authority.books().accounts.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_order_outlives_a_reload_and_ends_with_what_it_is_for() {
    let world = World::new();
    world.authority.is(Mood::Slow);
    let gateway = world.gateway(YAML).await;
    until("it is being ordered", || world.authority.books().asked == 1).await;
    let other = YAML.replace("body: shop", "body: other");
    world.reload(&gateway, &other).await;
    let contact = other.replace("ops@", "root@");
    sleep(Duration::from_mins(1)).await;
    assert_eq!((world.authority.books().asked, gateway.status().doing.word()), (1, "ordering"));

    // With another address the same certificate is ordered in another way.
    world.authority.is(Mood::Well);
    world.reload(&gateway, &contact).await;
    until("there is one", || gateway.orders("issued") == 1).await;
    assert_eq!(world.authority.books().asked, 2);
    let shown = gateway.shown("shop.example").await.unwrap();
    fs::remove_dir_all(world.folder.path().join("kept")).unwrap(); // It is not only read again.
    world.reload(&gateway, &other).await;
    assert_eq!(gateway.shown("shop.example").await.unwrap(), shown);

    // More hosts are another certificate, and the one before is shown until it is there.
    world.authority.is(Mood::Down);
    let more = other.replace("[shop.example,", "[shop.example, api.example,");
    world.reload(&gateway, &more).await;
    assert_eq!(gateway.shown("shop.example").await.unwrap(), shown);
    assert!(gateway.shown("api.example").await.is_err(), "that is for others");
    world.authority.is(Mood::Well);
    until("there is another one", || gateway.orders("issued") == 1).await;
    assert_ne!(gateway.shown("api.example").await.unwrap(), shown);
    assert_eq!(gateway.get("api.example", &world.authority).await.unwrap(), "other");

    // Nothing is ordered any more.
    let asked = world.authority.books().asked;
    let plain = "
listeners: {web: {listen: ':1'}}
routes: {all: {match: {prefix: /}, respond: {body: shop}}}
";
    world.reload(&gateway, plain).await;
    sleep(90 * DAY).await;
    assert_eq!(world.authority.books().asked, asked);
    assert_eq!(gateway.metric("naka_tls_certificate_orders_total"), None);
    assert_eq!(gateway.metric(NOT_AFTER), None);
}

#[tokio::test(start_paused = true)]
async fn of_two_processes_at_one_folder_one_orders_and_both_show() {
    let world = World::new();
    world.authority.is(Mood::Slow);
    let one = world.gateway(YAML).await;
    until("it is being ordered", || world.authority.books().asked == 1).await;
    let other = world.other_gateway(YAML).await;
    until("the other one waits", || other.status().doing.word() == "elsewhere").await;
    sleep(Duration::from_mins(5)).await;
    assert_eq!(world.authority.books().asked, 1);

    world.authority.is(Mood::Well);
    world.dies(one); // In the midst of it.
    let one = world.gateway(YAML).await;
    until("there is one", || one.orders("issued") + other.orders("issued") == 1).await;
    sleep(2 * HOUR).await;
    assert_eq!(one.shown("shop.example").await.unwrap(), other.shown("shop.example").await.unwrap());
    assert_eq!(world.authority.books().certificates, 1);
    sleep(65 * DAY).await;
    assert_eq!(world.authority.books().certificates, 2, "nor is it renewed twice");
    assert_eq!(one.shown("shop.example").await.unwrap(), other.shown("shop.example").await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_ordered_is_refused_before_anybody_is_asked() {
    let world = World::new();
    assert_eq!(world.check(YAML), Ok(()));
    assert!(!world.folder.path().join("kept").exists(), "a check looks at nothing");
    let other = YAML
        .replace("':1'", "':2'")
        .replace("  web:", "  other:")
        .replace("folder: kept", "folder: elsewhere");
    let other = other.split("listeners:").nth(1).unwrap().split("routes:").next().unwrap().to_owned();
    for (written, instead, said) in [
        ("accept_terms: true", "accept_terms: false", "without its terms of service"),
        ("        accept_terms: true\n", "", "`accept_terms` is missing"),
        ("        directory: https://acme.example/directory\n", "", "`directory` is missing"),
        ("https://acme.example", "http://acme.example", "only asked over `https`"),
        ("[shop.example, www.shop.example]", "[]", "a certificate for no host"),
        ("www.shop.example", "shop.example", "the same host twice"),
        ("www.shop.example", "'*.shop.example'", "without `*`"),
        ("www.shop.example", "192.0.2.1", "no name of a host"),
        ("ops@shop.example", "mailto:ops@shop.example", "no address of mail"),
        ("ops@shop.example", "ops", "no address of mail"),
        ("ca: root.pem", "ca: nothing.pem", "nothing.pem"),
        ("routes:", &*format!("{}routes:", other.trim_start_matches('\n')), "is ordered in another way"),
    ] {
        let refusal = world.check(&YAML.replacen(written, instead, 1)).unwrap_err();
        assert!(refusal.contains(said), "{instead}: {refusal}");
    }
    // A file's own tests know which host it will be for.
    let tests = "
tests:
  - {request: GET https://www.shop.example/, expect: {route: all}}
  - {request: GET https://other.example/, expect: {status: 421}}
";
    assert_eq!(world.check(&format!("{YAML}{tests}")), Ok(()));
}
