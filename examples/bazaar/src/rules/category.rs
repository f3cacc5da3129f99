//! What kind of goods a product is.

use std::{error::Error, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A kind of goods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Category {
    /// Telephones, appliances.
    Electronics,
    /// Clothes.
    Fashion,
    /// For the house.
    Home,
    /// Printed books.
    Books,
    /// Food and drink.
    Grocery,
}

impl Category {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Electronics, Self::Fashion, Self::Home, Self::Books, Self::Grocery];

    /// As in requests and answers: `electronics`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Electronics => "electronics",
            Self::Fashion => "fashion",
            Self::Home => "home",
            Self::Books => "books",
            Self::Grocery => "grocery",
        }
    }
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Category {
    type Err = UnknownCategory;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|it| it.as_str() == text);
        known.ok_or_else(|| UnknownCategory { text: text.to_owned() })
    }
}

/// A category that there is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownCategory {
    text: String,
}

impl fmt::Display for UnknownCategory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = Category::ALL.map(Category::as_str).join(", ");
        write!(f, "{:?} is not a category; there are {known}", self.text)
    }
}

impl Error for UnknownCategory {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn categories_have_names() {
        for category in Category::ALL {
            assert_eq!(category.to_string().parse(), Ok(category));
            assert_eq!(serde_json::to_value(category).unwrap(), category.as_str());
        }
        let unknown = "toys".parse::<Category>().unwrap_err().to_string();
        assert_eq!(
            unknown,
            "\"toys\" is not a category; there are electronics, fashion, home, books, grocery"
        );
    }
}
