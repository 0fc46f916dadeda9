"""The tables of the bank, by story: parties, grants, accounts, orders, ledger, audit."""

from bank.models.accounts import Account, AccountKind, AccountStatus, Currency
from bank.models.audit import AuditAction, AuditRecord
from bank.models.grants import (
    Employee,
    EmployeePermission,
    EmployeeStatus,
    Permission,
    Role,
    RolePermission,
)
from bank.models.ledger import Entry, Transfer, TransferKind
from bank.models.orders import Order, OrderOperation, OrderResult
from bank.models.parties import Organization, Person, PersonKey, PersonStatus

__all__ = [
    "Account",
    "AccountKind",
    "AccountStatus",
    "AuditAction",
    "AuditRecord",
    "Currency",
    "Employee",
    "EmployeePermission",
    "EmployeeStatus",
    "Entry",
    "Order",
    "OrderOperation",
    "OrderResult",
    "Organization",
    "Permission",
    "Person",
    "PersonKey",
    "PersonStatus",
    "Role",
    "RolePermission",
    "Transfer",
    "TransferKind",
]
