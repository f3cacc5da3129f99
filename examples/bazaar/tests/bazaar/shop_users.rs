//! Users: logging in, registering, and being forgotten.

use std::{fs, path::Path, thread};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::{
    http::{Answer, Ask, delete, get, post, put},
    world::{NOON, Service},
};

struct Users {
    service: Service,
    data: tempfile::TempDir,
}

impl Users {
    fn start() -> Self {
        let data = tempfile::tempdir().unwrap();
        Self { service: Service::start("user", data.path(), None, NOON, &[]), data }
    }

    fn restart(&mut self) {
        self.service.kill();
        self.service = Service::start("user", self.data.path(), Some(self.service.at), NOON, &[]);
    }

    fn send(&self, ask: &Ask) -> Answer {
        ask.send(self.service.at)
    }

    fn login(&self, user_id: &str, password: &str) -> Answer {
        self.send(&login(user_id, password))
    }
}

fn login(user_id: &str, password: &str) -> Ask {
    post("/api/auth/login", &json!({"user_id": user_id, "password": password}))
}

fn meera() -> Value {
    json!({
        "user_id": "meera", "password": "a long enough secret", "name": "Meera Nair", "city": "Chennai",
        "language": "en", "phone": "+919840011122", "email": "meera.nair@example.com",
    })
}

/// Whether a file in the folder has that in it.
fn is_written(data: &Path, what: &str) -> bool {
    fs::read_dir(data).unwrap().any(|entry| {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        bytes.windows(what.len()).any(|window| window == what.as_bytes())
    })
}

#[test]
fn r15_2_a_login_is_a_token_that_expires() {
    let users = Users::start();
    let answer = users.login("asha", "bazaar-asha").expect(200);
    assert_eq!((answer.said("token_type"), &answer.body["expires_in"]), ("Bearer".into(), &json!(3600)));
    assert!(answer.head.contains("cache-control: no-store"), "{}", answer.head);
    assert_eq!(
        answer.body["user"],
        json!({
            "user_id": "asha", "name": "Asha", "language": "hi", "city": "mumbai", "phone": "+919820012345",
            "email": "asha@example.com", "tier": "premium", "kyc": "full",
        })
    );
    let token = answer.said("token");
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    let claims = serde_json::from_slice::<Value>(&claims).unwrap();
    assert_eq!(
        (&claims["sub"], &claims["tier"], &claims["scope"]),
        (&json!("asha"), &json!("premium"), &json!("orders payment:process"))
    );
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 3600);
    // The gateway finds the key that it is signed with.
    let header = URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
    let header = serde_json::from_slice::<Value>(&header).unwrap();
    let jwks = users.send(&get("/.well-known/jwks.json")).expect(200);
    assert_eq!(jwks.body["keys"][0]["kid"], header["kid"]);
}

#[test]
fn r15_2_a_wrong_password_and_an_unknown_user_get_the_same_answer() {
    let users = Users::start();
    let wrong = users.login("asha", "bazaar-ravi").problem(401, "invalid_credentials");
    let unknown = users.login("nobody", "bazaar-ravi").problem(401, "invalid_credentials");
    assert_eq!(wrong.text, unknown.text);
    users.login("asha", "").problem(401, "invalid_credentials");
    users.login("ASHA", "bazaar-asha").problem(401, "invalid_credentials");
}

#[test]
fn r15_2_a_password_is_kept_as_a_hash_and_nowhere_else() {
    let users = Users::start();
    users.send(&post("/api/auth/register", &meera())).expect(201);
    users.login("meera", "a long enough secret").expect(200);
    assert!(is_written(users.data.path(), "meera.nair@example.com"), "this looks where it is written");
    assert!(is_written(users.data.path(), "$argon2id$v=19$m=19456,t=2,p=1$"));
    for password in ["a long enough secret", "bazaar-asha", "bazaar-mallory"] {
        assert!(!is_written(users.data.path(), password), "{password}");
    }
}

#[test]
fn a_registration_may_be_sent_again_and_belongs_to_its_user() {
    let mut users = Users::start();
    let first = users.send(&post("/api/auth/register", &meera())).expect(201);
    assert_eq!(
        (first.said("tier"), first.said("kyc"), first.said("city")),
        ("regular".into(), "minimal".into(), "chennai".into())
    );
    users.restart();
    assert_eq!(users.send(&post("/api/auth/register", &meera())).expect(201).text, first.text);
    for (member, other) in [("password", "another long secret"), ("name", "Mira"), ("city", "delhi")] {
        let mut changed = meera();
        changed[member] = json!(other);
        users.send(&post("/api/auth/register", &changed)).problem(409, "user_id_taken");
    }
    users.login("meera", "another long secret").problem(401, "invalid_credentials");
}

/// Of those who register under one id at once, one has it; who says all of it again is the same one.
#[test]
fn an_id_is_one_users() {
    let users = Users::start();
    let at = users.service.at;
    let statuses = |names: [&str; 3]| {
        thread::scope(|scope| {
            let register = |name: &str| {
                let mut wish = meera();
                wish["user_id"] = json!(names[0]);
                wish["name"] = json!(name);
                scope.spawn(move || post("/api/auth/register", &wish).send(at).status)
            };
            let asked = names.map(register);
            let mut statuses = asked.map(|it| it.join().unwrap());
            statuses.sort_unstable();
            statuses
        })
    };
    assert_eq!(statuses(["Meera", "Mira", "Meerabai"]), [201, 409, 409]);
    assert_eq!(statuses(["Ananya"; 3]), [201, 201, 201]);
}

#[test]
fn users_see_and_change_themselves_and_nobody_else() {
    let users = Users::start();
    let me = users.send(&get("/api/users/me").by("divya")).expect(200);
    assert_eq!(me.said("name"), "Divya");
    assert_eq!(users.send(&get("/api/users/divya").by("divya")).expect(200).text, me.text);
    users.send(&get("/api/users/asha").by("divya")).problem(404, "unknown_user");
    users.send(&get("/api/users/nobody").by("divya")).problem(404, "unknown_user");
    users.send(&get("/api/users/me")).problem(401, "not_identified");

    let wish =
        json!({"name": "Divya Rao", "language": "hi", "city": "pune", "phone": null, "email": "d@rao.in"});
    let changed = users.send(&put("/api/users/me", &wish).by("divya")).expect(200);
    assert_eq!(changed.body["phone"], Value::Null);
    assert_eq!(users.send(&put("/api/users/me", &wish).by("divya")).expect(200).text, changed.text);
    assert_eq!(users.send(&get("/api/users/me").by("divya")).expect(200).text, changed.text);
    let seen = users.send(&get("/internal/users/divya")).expect(200);
    assert_eq!(
        seen.body,
        json!({
            "user_id": "divya", "name": "Divya Rao", "language": "hi", "city": "pune", "tier": "regular",
            "kyc": "basic", "risk": 30, "blocked": false, "phone": null, "email": "d@rao.in",
        })
    );
    let mut better = wish.clone();
    better["tier"] = json!("premium");
    users.send(&put("/api/users/me", &better).by("divya")).problem(422, "unexpected_json");
    users.send(&get("/internal/users/nobody")).problem(404, "unknown_user");
    assert_eq!(users.send(&get("/internal/users/BLOCKED_mallory")).expect(200).body["blocked"], true);
}

#[test]
fn who_is_erased_is_gone_from_the_files() {
    let mut users = Users::start();
    users.send(&post("/api/auth/register", &meera())).expect(201);
    let wish = json!({"name": "Meera Iyer", "language": "en", "city": "pune", "phone": "+919840033344"});
    users.send(&put("/api/users/me", &wish).by("meera")).expect(200);
    assert!(is_written(users.data.path(), "Meera Iyer"), "this looks where it is written");

    assert_eq!(users.send(&delete("/api/users/me").by("meera")).status, 204);
    let personal =
        ["meera", "Meera Nair", "Meera Iyer", "+919840011122", "+919840033344", "meera.nair@example.com"];
    let is_anywhere = |users: &Users| personal.iter().any(|it| is_written(users.data.path(), it));
    assert!(!is_anywhere(&users));
    users.restart();
    assert!(!is_anywhere(&users));

    assert_eq!(users.send(&delete("/api/users/me").by("meera")).status, 204, "again, it is the same");
    users.send(&delete("/api/users/me").by("nobody")).problem(404, "unknown_user");
    users.send(&get("/api/users/me").by("meera")).problem(404, "unknown_user");
    users.send(&get("/internal/users/meera")).problem(404, "unknown_user");
    users.login("meera", "a long enough secret").problem(401, "invalid_credentials");
    // Nobody else gets the orders of somebody who was erased.
    users.send(&post("/api/auth/register", &meera())).problem(409, "user_id_taken");
    users.login("asha", "bazaar-asha").expect(200);
    assert_eq!(users.send(&delete("/api/users/me").by("asha")).status, 204);
    users.restart();
    users.login("asha", "bazaar-asha").problem(401, "invalid_credentials");
}

#[test]
fn registering_says_what_is_wrong() {
    let users = Users::start();
    let refused = |member: &str, value: Value| {
        let mut wish = meera();
        wish[member] = value;
        users.send(&post("/api/auth/register", &wish))
    };
    refused("user_id", json!("001")).problem(422, "invalid_user_id");
    refused("user_id", json!("me")).problem(422, "invalid_user_id");
    let short = refused("password", json!("1234567")).problem(422, "invalid_password");
    assert!(!short.text.contains("1234567"), "no password is repeated: {}", short.text);
    refused("password", json!("x".repeat(129))).problem(422, "invalid_password");
    refused("name", json!("")).problem(422, "invalid_text");
    refused("city", json!("surat")).problem(422, "city_not_served");
    refused("language", json!("mr")).problem(422, "unexpected_json");
    refused("phone", json!("12345")).problem(422, "invalid_phone");
    refused("email", json!("meera")).problem(422, "invalid_email");
    refused("tier", json!("premium")).problem(422, "unexpected_json");
    users.login("meera", "a long enough secret").problem(401, "invalid_credentials");
}
