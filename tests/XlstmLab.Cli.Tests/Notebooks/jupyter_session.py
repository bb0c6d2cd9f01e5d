"""Talks to a kernel by jupyter_client and prints what came as one JSON document. Arguments: the kernel's name, the working directory."""
import json
import os
import signal
import sys
import threading
import time

from jupyter_client.manager import KernelManager

manager = KernelManager(kernel_name=sys.argv[1])
manager.start_kernel(cwd=sys.argv[2])
client = manager.client()
client.start_channels()
client.wait_for_ready(timeout=60)
found = {}


def reply(message, timeout=60):
    while True:
        answer = client.get_shell_msg(timeout=timeout)
        if answer['parent_header'].get('msg_id') == message:
            return answer['content']


def outputs(message, until_idle=True, when=None):
    came = []
    while True:
        item = client.get_iopub_msg(timeout=60)
        if item['parent_header'].get('msg_id') != message:
            continue
        kind, content = item['msg_type'], item['content']
        if kind == 'status':
            if content['execution_state'] == 'idle':
                return came
        elif kind != 'execute_input':
            came.append([kind, content.get('text') or content.get('evalue') or content.get('data'), (content.get('transient') or {}).get('display_id')])
            if when:
                when()
                when = None


def run(code, interrupt=None, **options):
    message = client.execute(code, **options)
    came = outputs(message, when=interrupt)
    answer = reply(message)
    return {'status': answer['status'], 'count': answer.get('execution_count'), 'outputs': came}


found['value'] = run('1 + 1')
found['streams'] = run('Console.Write("out"); Console.Error.Write("err"); int kept = 5;')
found['update'] = run('var shown = display("before"); shown.Update(HTML("<b>after</b>"));')
found['chart'] = run('Plotly.NET.CSharp.Chart.Line<int, int, string>(new[] { 1, 2 }, new[] { 3, 4 })')
found['error'] = run('\nthrow new InvalidOperationException("broken");')
found['fsharp'] = run('#!fsharp\n#!share --from csharp kept\nprintf "%d" kept\nkept * 2')
found['complete'] = reply(client.complete('var é𝄞 = 1; Console.Wri', 23))
found['inspect'] = reply(client.inspect('Math.Max(', 9))
found['nothing'] = reply(client.inspect('unknownName', 3))
found['incomplete'] = [reply(client.is_complete(code))['status'] for code in ('int F() {', 'int x = 1;', '#!fsharp\nlet f x =', '#!fsharp\nf 1')]
found['history'] = reply(client.history())['history'][:2]
found['comms'] = reply(client.comm_info())
found['info'] = reply(client.kernel_info())['language_info']['name']
found['refused'] = run('await GetInputAsync("name?")', allow_stdin=False)
message = client.execute('await GetInputAsync("name?") + (await GetPasswordAsync("secret?")).GetClearTextPassword()', allow_stdin=True)
asked = []
for answer in ('Ada', 'x'):
    asked.append(client.get_stdin_msg(timeout=60)['content'])
    client.input(answer)
found['asked'] = asked
found['answered'] = outputs(message)
reply(message)
found['loop'] = run('Console.Write("x"); while (true) { }', interrupt=manager.interrupt_kernel)
pid = manager.provisioner.pid
found['signal'] = run('Console.Write("x"); await Task.Delay(-1);', interrupt=lambda: os.kill(pid, signal.SIGINT))
found['after'] = run('kept')
queue = [client.execute(code) for code in ('await Task.Delay(1000); throw new Exception("x");', '1', '2')]
found['aborted'] = [reply(message)['status'] for message in queue]
found['silent'] = run('kept = 6;', silent=True)['outputs']
key, client.session.key = client.session.key, b'wrong'
client.execute('kept = 7;')
client.session.key = key
found['unsigned'] = run('kept')
process = run('System.Diagnostics.Process.Start("sleep", "600").Id')['outputs'][0][1]['text/plain']
manager.restart_kernel()
client.wait_for_ready(timeout=60)
found['restarted'] = run('kept')
manager.shutdown_kernel()
client.stop_channels()
time.sleep(1)
found['child'] = os.path.exists('/proc/' + process) and 'Z' not in open('/proc/' + process + '/stat').read().split()[2]
print(json.dumps(found))
