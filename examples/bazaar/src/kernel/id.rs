//! Ids that nobody guesses.

use axum::http::StatusCode;

use super::problem::Problem;

/// 128 random bits, in hexadecimal: 32 digits.
pub fn random() -> Result<String, Problem> {
    Ok(format!("{:032x}", u128::from_be_bytes(bytes()?)))
}

/// Random bytes from the system.
pub fn bytes<const N: usize>() -> Result<[u8; N], Problem> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| {
        let detail = format!("the system gives no random numbers: {error}");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "no_randomness", detail)
    })?;
    Ok(bytes)
}
