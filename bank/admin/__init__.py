"""The admin of the bank: parties, grants and accounts are edited here, the ledger is only read.

Nobody moves money here. What is edited is written by the services or together with a record in
the audit trail, and counts for the next order.
"""

from bank.admin.accounts import AccountAdmin, CurrencyAdmin
from bank.admin.audit import AuditRecordAdmin
from bank.admin.grants import EmployeeAdmin, RoleAdmin
from bank.admin.ledger import OrderAdmin, TransferAdmin
from bank.admin.parties import OrganizationAdmin, PersonAdmin

__all__ = [
    "AccountAdmin",
    "AuditRecordAdmin",
    "CurrencyAdmin",
    "EmployeeAdmin",
    "OrderAdmin",
    "OrganizationAdmin",
    "PersonAdmin",
    "RoleAdmin",
    "TransferAdmin",
]
