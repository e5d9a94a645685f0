# SPDX-License-Identifier: Apache-2.0
"""What every test may rely on, however the tests were started."""

import signal

# A shell lets what it starts in the background ignore Ctrl-C, and so would
# all that tests start; some of them send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
  signal.signal(signal.SIGINT, signal.default_int_handler)
