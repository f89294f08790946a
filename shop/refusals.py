"""Refusals of the shop: one class for each `shop.v1.ErrorReason`, whose comment names the action of the client. A test
compares the two."""

from diptych import AlreadyExists, FailedPrecondition, NotFound


class EmailTaken(AlreadyExists, reason="EMAIL_TAKEN"):
    """Another user has the email."""

    message = "The email {email} is taken by another user."
    email: str


class UsernameTaken(AlreadyExists, reason="USERNAME_TAKEN"):
    """Another user has the username."""

    message = "The username {username} is taken by another user."
    username: str


class UserExists(AlreadyExists, reason="USER_EXISTS"):
    """The id of the new user is taken."""

    message = "User {user_id} is registered already."
    user_id: str


class UserNotFound(NotFound, reason="USER_NOT_FOUND"):
    """The request names a user who is not registered."""

    message = "There is no user {user_id}."
    user_id: str


class UserDeactivated(FailedPrecondition, reason="USER_DEACTIVATED"):
    """The user is deactivated and cannot do that."""

    message = "User {user_id} is deactivated."
    user_id: str


class UnknownUser(FailedPrecondition, reason="UNKNOWN_USER"):
    """The command names a user who is not registered."""

    message = "User {user_id}, whom the command names, is not registered."
    user_id: str


class ProductExists(AlreadyExists, reason="PRODUCT_EXISTS"):
    """The id of the new product is taken."""

    message = "Product {product_id} is in the catalogue already."
    product_id: str


class ProductNotFound(NotFound, reason="PRODUCT_NOT_FOUND"):
    """The request names a product that is not in the catalogue."""

    message = "There is no product {product_id}."
    product_id: str


class StockTooLow(FailedPrecondition, reason="STOCK_TOO_LOW"):
    """The stock has fewer pieces than would be removed."""

    message = "Of product {product_id} there are {stock} pieces in stock, and {requested} are requested."
    product_id: str
    stock: int
    requested: int


class UnknownProduct(FailedPrecondition, reason="UNKNOWN_PRODUCT"):
    """The command names a product that is not in the catalogue."""

    message = "Product {product_id}, which the command names, is not in the catalogue."
    product_id: str


class OrderExists(AlreadyExists, reason="ORDER_EXISTS"):
    """The id of the new order is taken."""

    message = "Order {order_id} is recorded already."
    order_id: str


class OrderNotFound(NotFound, reason="ORDER_NOT_FOUND"):
    """The request names an order that is not recorded."""

    message = "There is no order {order_id}."
    order_id: str


class UnknownOrder(FailedPrecondition, reason="UNKNOWN_ORDER"):
    """The command names an order that is not recorded."""

    message = "Order {order_id}, which the command names, is not recorded."
    order_id: str


class ReturnExists(AlreadyExists, reason="RETURN_EXISTS"):
    """The id of the new return is taken."""

    message = "Return {return_id} is recorded already."
    return_id: str


class CurrenciesDiffer(FailedPrecondition, reason="CURRENCIES_DIFFER"):
    """The items of one order or return are in several currencies."""

    message = "The first item is in {currency_code}, and another one in {other_currency_code}."
    currency_code: str
    other_currency_code: str


class OrderStatusNotNext(FailedPrecondition, reason="ORDER_STATUS_NOT_NEXT"):
    """The order cannot go from its status to the requested one."""

    message = "Order {order_id} is {current_status}, from where it cannot go to {requested_status}."
    order_id: str
    current_status: str
    requested_status: str


class OrderNotCancellable(FailedPrecondition, reason="ORDER_NOT_CANCELLABLE"):
    """The order is shipped or delivered and cannot be cancelled."""

    message = "Order {order_id} is {current_status}, so it cannot be cancelled."
    order_id: str
    current_status: str


class RegistrationExists(AlreadyExists, reason="REGISTRATION_EXISTS"):
    """The id of the new registration is taken."""

    message = "Registration {registration_id} is recorded already."
    registration_id: str


class RegistrationNotFound(NotFound, reason="REGISTRATION_NOT_FOUND"):
    """The request names a registration that is not recorded."""

    message = "There is no registration {registration_id}."
    registration_id: str


class FulfilmentNotFound(NotFound, reason="FULFILMENT_NOT_FOUND"):
    """The request names an order without a fulfilment."""

    message = "Order {order_id} is not being fulfilled."
    order_id: str


class AmountTooLarge(FailedPrecondition, reason="AMOUNT_TOO_LARGE"):
    """The total of the items is above the limit of an order or a return."""

    message = "With the item of product {product_id} the total would be above 10,000,000,000,000,000 {currency_code}."
    product_id: str
    currency_code: str
