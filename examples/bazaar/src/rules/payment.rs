//! Who may pay how much, and how.
//!
//! # Rule
//! 1. An order is at least [`ORDER_MIN`].
//! 2. **Methods.** UPI: at most [`UPI_MAX`], to an id `name@bank`. Cash on delivery: at most [`COD_MAX`], and only if every product
//!    of the order allows it. Every method but cash names an account.
//! 3. **User.** Who is blocked, or whose name begins with `BLOCKED_` or `SUSPENDED_`, does not pay.
//! 4. **KYC.** Above 50,000.00: full, and of a risk of at most 70 (else somebody has to look at it); above
//!    10,000.00: basic; else minimal.
//! 5. **Merchant.** Not `INVALID_…` or `SUSPENDED_…`; at most [`MERCHANT_MAX`] at a time, [`MERCHANT_DAY_MAX`] a day.
//! 6. **Fraud.** The user's risk, +20 above 25,000.00, +15 from 23:00 to 05:59 in India, +10 for credit cards and EMI. More
//!    than [`FRAUD_MAX`] is refused.
//! 7. **Commission.** 3 %, rounded half up to the paisa; the merchant has the rest, so that both together are the amount.
//!
//! # State
//! None.

use std::{error::Error, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{moment::Moment, money::Money};

/// The smallest order: 50.00.
pub const ORDER_MIN: Money = Money::from_paise(5_000);

/// The largest payment by UPI: 100,000.00.
pub const UPI_MAX: Money = Money::from_paise(10_000_000);

/// The largest order that is paid on delivery: 50,000.00.
pub const COD_MAX: Money = Money::from_paise(5_000_000);

/// The largest payment to a merchant: 100,000.00.
pub const MERCHANT_MAX: Money = Money::from_paise(10_000_000);

/// What a merchant may receive in a day: 1,000,000.00.
pub const MERCHANT_DAY_MAX: Money = Money::from_paise(100_000_000);

/// The highest score with which one may pay.
pub const FRAUD_MAX: u32 = 85;

/// The highest risk with which one may pay more than 50,000.00.
pub const RISK_MAX: u32 = 70;

/// The longest account, in bytes.
pub const ACCOUNT_LIMIT: usize = 100;

const KYC_FULL_ABOVE: Money = Money::from_paise(5_000_000);
const KYC_BASIC_ABOVE: Money = Money::from_paise(1_000_000);
const FRAUD_LARGE_ABOVE: Money = Money::from_paise(2_500_000);

/// How one pays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// From a bank account, by an id `name@bank`.
    Upi,
    /// From a wallet.
    Wallet,
    /// By credit card.
    CreditCard,
    /// By debit card.
    DebitCard,
    /// From a bank account, on the bank's page.
    NetBanking,
    /// In instalments.
    Emi,
    /// In cash, on delivery.
    Cod,
}

impl Method {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Upi, Self::Wallet, Self::CreditCard, Self::DebitCard, Self::NetBanking, Self::Emi, Self::Cod];

    /// As in requests and answers: `credit_card`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Upi => "upi",
            Self::Wallet => "wallet",
            Self::CreditCard => "credit_card",
            Self::DebitCard => "debit_card",
            Self::NetBanking => "net_banking",
            Self::Emi => "emi",
            Self::Cod => "cod",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Method {
    type Err = UnknownMethod;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|it| it.as_str() == text);
        known.ok_or_else(|| UnknownMethod { text: text.to_owned() })
    }
}

/// A method that there is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownMethod {
    text: String,
}

impl fmt::Display for UnknownMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = Method::ALL.map(Method::as_str).join(", ");
        write!(f, "{:?} is not a way to pay; there are {known}", self.text)
    }
}

impl Error for UnknownMethod {}

/// How well the shop knows somebody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kyc {
    /// A telephone number.
    #[default]
    Minimal,
    /// A document.
    Basic,
    /// All of it.
    Full,
}

impl Kyc {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Minimal, Self::Basic, Self::Full];

    /// As in answers: `full`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Minimal => "minimal",
            Self::Basic => "basic",
            Self::Full => "full",
        }
    }

    /// What is needed to pay that much.
    pub fn needed(amount: Money) -> Self {
        match amount {
            _ if amount > KYC_FULL_ABOVE => Self::Full,
            _ if amount > KYC_BASIC_ABOVE => Self::Basic,
            _ => Self::Minimal,
        }
    }
}

impl fmt::Display for Kyc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Kyc {
    type Err = UnknownKyc;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|it| it.as_str() == text);
        known.ok_or_else(|| UnknownKyc { text: text.to_owned() })
    }
}

/// A level of KYC that there is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownKyc {
    text: String,
}

impl fmt::Display for UnknownKyc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = Kyc::ALL.map(Kyc::as_str).join(", ");
        write!(f, "{:?} is not a level of KYC; there are {known}", self.text)
    }
}

impl Error for UnknownKyc {}

/// Whether an order of that amount may be paid so; `is_cod_offered`: every product of it allows cash on delivery.
pub fn check_method(method: Method, amount: Money, is_cod_offered: bool) -> Result<(), Refusal> {
    match method {
        _ if amount < ORDER_MIN => Err(Refusal::BelowMinimum),
        Method::Upi if amount > UPI_MAX => Err(Refusal::UpiLimit),
        Method::Cod if !is_cod_offered => Err(Refusal::CodNotOffered),
        Method::Cod if amount > COD_MAX => Err(Refusal::CodLimit),
        _ => Ok(()),
    }
}

/// Whether that is an account of that method: an id `name@bank` for UPI, visible ASCII for the others, and anything for cash.
pub fn check_account(method: Method, account: &str) -> Result<(), Refusal> {
    let is_visible =
        (1..=ACCOUNT_LIMIT).contains(&account.len()) && account.bytes().all(|byte| byte.is_ascii_graphic());
    match method {
        Method::Cod => Ok(()),
        Method::Upi if is_visible && is_upi_id(account) => Ok(()),
        Method::Upi => Err(Refusal::UpiId),
        _ if is_visible => Ok(()),
        _ => Err(Refusal::Account),
    }
}

/// `name@bank`: letters, digits, dots, hyphens and underscores, an `@`, letters and digits.
fn is_upi_id(text: &str) -> bool {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    text.split_once('@').is_some_and(|(name, bank)| {
        !name.is_empty()
            && name.bytes().all(is_name)
            && !bank.is_empty()
            && bank.bytes().all(|byte| byte.is_ascii_alphanumeric())
    })
}

/// Whether somebody of that name may pay at all.
pub fn check_user(user_id: &str, is_blocked: bool) -> Result<(), Refusal> {
    let is_barred = ["BLOCKED_", "SUSPENDED_"].iter().any(|it| user_id.starts_with(it));
    if is_blocked || is_barred { Err(Refusal::UserBlocked) } else { Ok(()) }
}

/// Whether somebody who is known so well may pay that much.
pub fn check_kyc(kyc: Kyc, risk: u32, amount: Money) -> Result<(), Refusal> {
    let needed = Kyc::needed(amount);
    match needed {
        _ if kyc < needed => Err(Refusal::Kyc { needed }),
        Kyc::Full if risk > RISK_MAX => Err(Refusal::ManualReview),
        _ => Ok(()),
    }
}

/// Whether a merchant may receive that much, who has received `today` already.
pub fn check_merchant(merchant: &str, amount: Money, today: Money) -> Result<(), Refusal> {
    if ["INVALID_", "SUSPENDED_"].iter().any(|it| merchant.starts_with(it)) {
        return Err(Refusal::Merchant);
    }
    if amount > MERCHANT_MAX {
        return Err(Refusal::MerchantLimit);
    }
    let is_within = today.checked_add(amount).is_some_and(|sum| sum <= MERCHANT_DAY_MAX);
    if is_within { Ok(()) } else { Err(Refusal::MerchantDayLimit) }
}

/// How suspicious a payment is: points, by the [module's rule](self).
pub fn fraud_score(risk: u32, amount: Money, at: Moment, method: Method) -> u32 {
    let large = if amount > FRAUD_LARGE_ABOVE { 20 } else { 0 };
    let night = if matches!(at.in_india().hour, 23.. | ..6) { 15 } else { 0 };
    let credit = if matches!(method, Method::CreditCard | Method::Emi) { 10 } else { 0 };
    risk.saturating_add(large + night + credit)
}

/// What a score means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Suspicion {
    /// At most 40.
    Low,
    /// At most 70.
    Medium,
    /// At most 85.
    High,
    /// More: refused.
    Blocked,
}

impl Suspicion {
    /// That of a score.
    pub const fn of(score: u32) -> Self {
        match score {
            ..=40 => Self::Low,
            41..=70 => Self::Medium,
            71..=FRAUD_MAX => Self::High,
            _ => Self::Blocked,
        }
    }
}

/// Whether one may pay with that score.
pub const fn check_fraud(score: u32) -> Result<(), Refusal> {
    match Suspicion::of(score) {
        Suspicion::Blocked => Err(Refusal::Fraud),
        _ => Ok(()),
    }
}

/// A payment, shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// What the merchant has.
    pub merchant: Money,
    /// What the shop keeps: 3 %.
    pub commission: Money,
}

/// Shares out an amount that is not negative; both parts together are the amount.
pub fn split(amount: Money) -> Split {
    let paise = i128::from(amount.paise());
    let commission = i64::try_from((paise * 3 + 50).div_euclid(100)).expect("3 % of what fits fits");
    Split {
        merchant: Money::from_paise(amount.paise() - commission),
        commission: Money::from_paise(commission),
    }
}

/// Why a payment is not taken. A decision, and no failure: asking again does not help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The order is too small.
    BelowMinimum,
    /// Too much for UPI.
    UpiLimit,
    /// No UPI id.
    UpiId,
    /// No account.
    Account,
    /// Too much for cash on delivery.
    CodLimit,
    /// A product is not sold for cash on delivery.
    CodNotOffered,
    /// This user does not pay.
    UserBlocked,
    /// The user is not known well enough.
    Kyc {
        /// What is needed.
        needed: Kyc,
    },
    /// Somebody has to look at it.
    ManualReview,
    /// This merchant receives nothing.
    Merchant,
    /// Too much for the merchant.
    MerchantLimit,
    /// Too much for the merchant on one day.
    MerchantDayLimit,
    /// Too suspicious.
    Fraud,
}

impl Refusal {
    /// A word for programs.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::BelowMinimum => "below_minimum",
            Self::UpiLimit => "upi_limit",
            Self::UpiId => "invalid_upi_id",
            Self::Account => "invalid_account",
            Self::CodLimit => "cod_limit",
            Self::CodNotOffered => "cod_not_offered",
            Self::UserBlocked => "user_blocked",
            Self::Kyc { .. } => "kyc_needed",
            Self::ManualReview => "manual_review",
            Self::Merchant => "merchant_refused",
            Self::MerchantLimit => "merchant_limit",
            Self::MerchantDayLimit => "merchant_day_limit",
            Self::Fraud => "fraud_suspected",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BelowMinimum => write!(f, "an order is at least {ORDER_MIN}"),
            Self::UpiLimit => write!(f, "by UPI one pays at most {UPI_MAX}; choose another way to pay"),
            Self::UpiId => f.write_str("a UPI id is like name@bank"),
            Self::Account => write!(f, "an account is 1 to {ACCOUNT_LIMIT} visible ASCII characters"),
            Self::CodLimit => write!(f, "on delivery one pays at most {COD_MAX}; choose another way to pay"),
            Self::CodNotOffered => f.write_str(
                "a product of this order is not sold for cash on delivery; choose another way to pay",
            ),
            Self::UserBlocked => f.write_str("this user may not pay; ask the shop's staff"),
            Self::Kyc { needed } => write!(f, "that much needs {needed} KYC"),
            Self::ManualReview => f.write_str("that much of this user somebody has to look at first"),
            Self::Merchant => f.write_str("this merchant receives no payments"),
            Self::MerchantLimit => write!(f, "the merchant takes at most {MERCHANT_MAX} at a time"),
            Self::MerchantDayLimit => write!(f, "the merchant takes at most {MERCHANT_DAY_MAX} a day"),
            Self::Fraud => f.write_str("this payment was not accepted; choose another way to pay"),
        }
    }
}

impl Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    fn money(text: &str) -> Money {
        text.parse().unwrap()
    }

    fn at(time: &str) -> Moment {
        format!("2026-01-15T{time}+05:30").parse().unwrap()
    }

    #[test]
    fn r15_4_each_method_has_its_limits() {
        let check =
            |method, amount, offered| check_method(method, money(amount), offered).map_err(Refusal::reason);
        for method in Method::ALL {
            assert_eq!(check(method, "49.99", true), Err("below_minimum"), "{method}");
            assert_eq!(check(method, "50.00", true), Ok(()), "{method}");
        }
        assert_eq!(check(Method::Upi, "100000.00", false), Ok(()));
        assert_eq!(check(Method::Upi, "100000.01", false), Err("upi_limit"));
        assert_eq!(check(Method::Cod, "50000.00", true), Ok(()));
        assert_eq!(check(Method::Cod, "50000.01", true), Err("cod_limit"));
        assert_eq!(check(Method::Cod, "100.00", false), Err("cod_not_offered"));
        assert_eq!(check(Method::Emi, "100000.01", false), Ok(()), "the merchant's limit is another rule");
    }

    #[test]
    fn r15_4_a_upi_id_is_a_name_at_a_bank() {
        for id in ["asha@okbank", "a.sha-1_x@upi", "9820012345@ybl"] {
            assert_eq!(check_account(Method::Upi, id), Ok(()), "{id}");
        }
        let long = format!("{}@upi", "a".repeat(ACCOUNT_LIMIT));
        for id in ["", "asha", "@upi", "asha@", "a@b@c", "a sha@upi", "asha@ok.bank", "आशा@upi", &long]
        {
            assert_eq!(check_account(Method::Upi, id), Err(Refusal::UpiId), "{id}");
        }
        assert_eq!(check_account(Method::CreditCard, "tok_1"), Ok(()));
        assert_eq!(check_account(Method::CreditCard, ""), Err(Refusal::Account));
        assert_eq!(check_account(Method::Wallet, "a b"), Err(Refusal::Account));
        assert_eq!(check_account(Method::Cod, ""), Ok(()));
    }

    #[test]
    fn more_needs_better_kyc() {
        let check = |kyc, risk, amount| check_kyc(kyc, risk, money(amount));
        let needs = |needed| Err(Refusal::Kyc { needed });
        assert_eq!(check(Kyc::Minimal, 100, "10000.00"), Ok(()));
        assert_eq!(check(Kyc::Minimal, 0, "10000.01"), needs(Kyc::Basic));
        assert_eq!(check(Kyc::Basic, 100, "50000.00"), Ok(()));
        assert_eq!(check(Kyc::Basic, 0, "50000.01"), needs(Kyc::Full));
        assert_eq!(check(Kyc::Full, 70, "50000.01"), Ok(()));
        assert_eq!(check(Kyc::Full, 71, "50000.01"), Err(Refusal::ManualReview));
    }

    #[test]
    fn golden_scores_of_fraud() {
        let score = |amount, time, method| fraud_score(40, money(amount), at(time), method);
        assert_eq!(score("25000.00", "12:00", Method::Upi), 40);
        assert_eq!(score("25000.01", "12:00", Method::Upi), 60);
        assert_eq!(score("25000.01", "23:00", Method::Upi), 75);
        assert_eq!(score("25000.01", "23:00", Method::CreditCard), 85);
        assert_eq!(score("1.00", "12:00", Method::Emi), 50);
        assert_eq!(score("1.00", "12:00", Method::DebitCard), 40);
        let nights = ["22:59:59", "23:00", "00:00", "05:59:59", "06:00"];
        assert_eq!(nights.map(|time| score("1.00", time, Method::Upi)), [40, 55, 55, 55, 40]);
        assert_eq!((check_fraud(85), check_fraud(86)), (Ok(()), Err(Refusal::Fraud)));
        assert_eq!(
            [40, 41, 70, 71, 85, 86].map(Suspicion::of),
            [
                Suspicion::Low,
                Suspicion::Medium,
                Suspicion::Medium,
                Suspicion::High,
                Suspicion::High,
                Suspicion::Blocked
            ]
        );
    }

    #[test]
    fn a_merchant_has_a_limit_for_each_payment_and_for_the_day() {
        let check = |amount, today| check_merchant("bazaar", money(amount), money(today));
        assert_eq!(check("100000.00", "0.00"), Ok(()));
        assert_eq!(check("100000.01", "0.00"), Err(Refusal::MerchantLimit));
        assert_eq!(check("100000.00", "900000.00"), Ok(()));
        assert_eq!(check("100000.00", "900000.01"), Err(Refusal::MerchantDayLimit));
        for merchant in ["INVALID_x", "SUSPENDED_x"] {
            assert_eq!(check_merchant(merchant, money("1.00"), Money::default()), Err(Refusal::Merchant));
        }
    }

    #[test]
    fn who_is_blocked_does_not_pay() {
        assert_eq!(check_user("asha", false), Ok(()));
        for (user, blocked) in [("asha", true), ("BLOCKED_mallory", false), ("SUSPENDED_mallory", false)] {
            assert_eq!(check_user(user, blocked), Err(Refusal::UserBlocked));
        }
    }

    #[test]
    fn r4_8_a_commission_of_three_percent_sums_exactly() {
        let Split { merchant, commission } = split(money("1500.00"));
        assert_eq!([merchant, commission].map(|it| it.to_string()), ["1455.00", "45.00"]);
        for paise in (0..10_000).chain([i64::MAX]) {
            let Split { merchant, commission } = split(Money::from_paise(paise));
            assert_eq!(merchant.paise() + commission.paise(), paise);
            let exact = i128::from(paise) * 3;
            assert!((i128::from(commission.paise()) * 100 - exact).abs() <= 50, "{paise}");
        }
        assert_eq!([16, 17, 49, 50].map(|it| split(Money::from_paise(it)).commission.paise()), [0, 1, 1, 2]);
    }

    #[test]
    fn words_are_read_as_they_are_said() {
        for method in Method::ALL {
            assert_eq!(method.to_string().parse(), Ok(method));
            assert_eq!(serde_json::to_value(method).unwrap(), method.as_str());
        }
        for kyc in Kyc::ALL {
            assert_eq!(kyc.to_string().parse(), Ok(kyc));
            assert_eq!(serde_json::to_value(kyc).unwrap(), kyc.as_str());
        }
        assert!(
            "cash".parse::<Method>().unwrap_err().to_string().starts_with("\"cash\" is not a way to pay")
        );
        assert!("none".parse::<Kyc>().unwrap_err().to_string().starts_with("\"none\" is not a level of KYC"));
    }
}
